//! The data of TLSA records (RFC 6698 section 2).

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, SHA512, digest};
use clap::Args;

use crate::admin::AdminError;
use crate::admin::describe::spki;

/// The three numbers of a record.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Fields {
    /// Certificate usage: 3 this very certificate, 2 the authority at the end of its chain; 1 and 0 the same, for
    /// peers who must trust that authority anyway
    #[arg(long, value_name = "NUMBER", default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=3))]
    pub(super) usage: u8,
    /// Selector: 1 the public key, which outlives a renewal with the same key; 0 the whole certificate
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=1))]
    pub(super) selector: u8,
    /// Matching type: 1 by SHA-256, 2 by SHA-512, 0 the whole
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub(super) matching: u8,
}

impl Fields {
    /// The data of the record that a chain needs, leaf first, as zone files have it.
    pub(super) fn of(self, chain: &[Vec<u8>]) -> Result<String, AdminError> {
        let certificate = match (self.usage, chain) {
            (1 | 3, [leaf, ..]) => leaf,
            (_, [_, .., authority]) => authority,
            _ => {
                return Err(AdminError::Usage(format!(
                    "usage {} is about an authority, and there is none in the chain of this identity; \
                     use 3, or add the identity with its whole chain",
                    self.usage
                )));
            }
        };
        let selected = if self.selector == 0 { certificate.clone() } else { spki(certificate)? };
        let data = match self.matching {
            0 => selected,
            1 => digest(&SHA256, &selected).as_ref().to_vec(),
            _ => digest(&SHA512, &selected).as_ref().to_vec(),
        };
        let mut text = format!("{} {} {} ", self.usage, self.selector, self.matching);
        for byte in data {
            let _ = write!(text, "{byte:02x}");
        }
        Ok(text)
    }
}
