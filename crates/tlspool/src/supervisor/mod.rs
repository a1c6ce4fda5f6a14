//! The supervisor: the process that the others are children of.

pub mod message;
