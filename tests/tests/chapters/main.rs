//! The chapters that lead through a task step by step, followed to the letter: each command is read out of the page,
//! in the page's order, and typed on a machine that is as good as new ([`machine`]); where the page shows what a
//! command says, it must say that.
//!
//! A command that a chapter has and its test does not know fails the test, so a page cannot change alone. What is done
//! in another way than the page says stands where it is done, with the reason; it is little: packages are here
//! already, systemd is not, and the root of the DNS is one of our own.

mod machine;
mod page;
mod publish;
mod token;
