//! Certificates made by GnuPG, read by us.

mod gpg;
mod reading;
mod standing;
mod voucher;
