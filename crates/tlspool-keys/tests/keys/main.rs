//! Keys in files, on SoftHSM2 and on NSS softokn, and the key process with its client.
//!
//! A PKCS #11 module lives once in a process and reads its settings from the environment, so each
//! test that loads one runs in a process of its own: [`common::run_isolated`].

#![allow(unreachable_pub)] // nothing here is public

mod common;
mod files;
mod guarded;
mod healing;
mod keypad;
mod lies;
mod pins;
mod process;
mod softokn;
mod tokens;
