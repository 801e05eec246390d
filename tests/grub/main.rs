//! GRUB: recorded boots derived again from their files, and predicted from one another.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)]

mod fixture;
mod recorded;
