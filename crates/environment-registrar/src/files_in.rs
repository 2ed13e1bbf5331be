//! Reading files, of environments and definitions alike: [`observe`] reports what to look at,
//! [`scan`] what is there, and [`origin`] who wrote it.

pub mod observe;
pub mod origin;
pub mod scan;
