//! The two services of the demo, `frontend` and `backend`, in one crate: what they share is how they are set up and
//! served ([`server`]) and that they pass on who they work for ([`propagation`]); [`frontend`] and [`backend`] hold
//! what each of them answers. A service of your own needs nothing of this but the few lines of [`propagation`].

pub mod backend;
pub mod frontend;
pub mod propagation;
pub mod server;
