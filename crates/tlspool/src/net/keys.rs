//! A worker's way to the private keys, in another process.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use tlspool_keys::KeyError;
use tokio::time::Instant;

use super::shared::Shared;

pub(crate) struct Keys;
impl Keys {
    pub(crate) fn new(_channel: OwnedFd, _shared: &Arc<Shared>) -> std::io::Result<Self> {
        Ok(Self)
    }
    pub(crate) fn restarted(&self, _channel: OwnedFd) {}
    pub(crate) async fn certificates(
        &self,
        uri: &str,
        _deadline: Option<Instant>,
    ) -> Result<Vec<Vec<u8>>, KeyError> {
        Err(KeyError::NotFound(uri.into()))
    }
    pub(crate) async fn sign(
        &self,
        uri: &str,
        _scheme: u16,
        _message: &[u8],
        _deadline: Option<Instant>,
    ) -> Result<Vec<u8>, KeyError> {
        Err(KeyError::NotFound(uri.into()))
    }
}
