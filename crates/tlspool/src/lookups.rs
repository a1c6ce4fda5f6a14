//! What the configuration means to whoever looks up: the look-up process, and commands that look up by
//! themselves.

use crate::config::Config;
use tlspool_lookup::Settings;

/// The settings of look-ups. Reads the files that the configuration names; an error says which and why.
#[expect(clippy::unnecessary_wraps, reason = "until the sources are wired")]
pub(crate) fn settings(_config: &Config) -> Result<Settings, String> {
    Ok(Settings {})
}
