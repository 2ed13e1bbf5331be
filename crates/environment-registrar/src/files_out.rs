//! Writing files, beside the chain: [`queue`] plans it and keeps what is still to be done,
//! [`copies`] decides which copies of other registrations should exist, [`writer`] touches the
//! files, and [`archive`] keeps earlier contents. [`volatile`] finds an archive that a restart loses.

pub mod archive;
pub mod copies;
pub mod queue;
pub mod volatile;
pub mod writer;
