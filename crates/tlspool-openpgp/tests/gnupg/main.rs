//! Certificates made by GnuPG, read by us.

mod gpg;
mod making;
mod others;
mod reading;
mod standing;
mod voucher;
