//! The network process and the key process in threads of this one, and programs that use them:
//! what the socket protocol promises, without anything else of the daemon.

mod choosers;
mod disclosure;
mod house;
mod sessions;
mod strangers;
