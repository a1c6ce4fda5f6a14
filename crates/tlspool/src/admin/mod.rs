//! The commands that look after the database and the tokens: `tlspool identity | access |
//! disclosure | trust | policy | authorize | pin | token`.
//!
//! They work on the SQLite file and the PKCS #11 modules directly, whether a daemon runs or not: a
//! running one sees changes of the tables at once. `main` parses them as part of its own command
//! line and calls [`run`]. Nothing here is used by the daemon.
//!
//! Results go to standard output, for people or with `--json` one JSON document per line; advice
//! goes to standard error.

mod access;
mod accounts;
mod authorize;
mod create;
mod describe;
mod disclosure;
mod error;
mod exchange;
mod identity;
mod openpgp;
pub mod output;
mod pin;
mod policy;
pub mod prompt;
mod publish;
mod rows;
pub(crate) mod signer;
mod token;
mod trust;

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown, fchown};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Subcommand;
use tlspool_keys::{KeyStore, KeyStoreConfig};
use tlspool_store::{Mode, Store, StoreError};

use crate::config::Config;
use crate::users;

pub use error::AdminError;

/// The commands of an administrator.
#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Local identities: the names we can be, with their certificates and keys
    Identity(identity::IdentityArgs),
    /// Which local users, groups and programs may use which local identities
    Access(access::AccessArgs),
    /// Which local identities a client shows to whom, when its program names none
    Disclosure(disclosure::DisclosureArgs),
    /// Trust anchors, beside those of the system
    Trust(trust::TrustArgs),
    /// What must hold of peers before they are believed
    Policy(policy::PolicyArgs),
    /// Which peers, once they have proved who they are, may meet which of our names
    Authorize(authorize::AuthorizeArgs),
    /// Fingerprints that peers must have
    Pin(pin::PinArgs),
    /// PKCS #11 modules, tokens and what is on them, as URIs ready to paste
    Token(token::TokenArgs),
}

/// What the commands work on.
#[derive(Debug, Clone)]
pub struct AdminContext {
    /// The SQLite file.
    pub database: PathBuf,
    /// PKCS #11 modules.
    pub keys: KeyStoreConfig,
    /// Who must be able to read key files that root makes: the user of the key process.
    pub key_user: Option<String>,
    /// Who must be able to read a database that root makes, and their group: those of the network
    /// process.
    pub user: Option<String>,
    /// As above.
    pub group: Option<String>,
    /// All of the configuration, to judge peers as the daemon does.
    pub config: Config,
}

impl AdminContext {
    /// As the configuration of the daemon says.
    pub fn of(config: &Config) -> Self {
        let keys = KeyStoreConfig { sessions_per_token: 1, ..config.keys.store_config() };
        Self {
            database: config.database.to_path_buf(),
            keys,
            key_user: config.key_user.as_ref().map(|user| user.0.clone()),
            user: config.user.as_ref().map(|user| user.0.clone()),
            group: config.group.as_ref().map(|group| group.0.clone()),
            config: config.clone(),
        }
    }

    /// The database, to add something; makes it where there is none.
    fn store(&self) -> Result<Store, AdminError> {
        let is_new = !self.database.exists();
        if is_new && rustix::process::geteuid().is_root() {
            self.make_database().map_err(|error| AdminError::writing(&self.database, error))?;
        }
        let store = Store::open(&self.database, Mode::ReadWrite)?;
        if is_new {
            output::note(format_args!("{}: made, there was no database", self.database.display()));
        }
        Ok(store)
    }

    /// The database, to change or remove what is in it.
    fn store_to_change(&self) -> Result<Store, AdminError> {
        Ok(Store::open_to_change(&self.database)?)
    }

    /// The first command may come before the first start of the daemon; a database that root keeps to
    /// himself would then be closed to the network process.
    fn make_database(&self) -> io::Result<()> {
        let Some(user) = self.user.as_deref().and_then(users::user) else { return Ok(()) };
        let group = self.group.as_deref().and_then(users::group).unwrap_or(user.gid);
        if let Some(folder) = self.database.parent().filter(|folder| !folder.exists()) {
            DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
            chown(folder, Some(user.uid), Some(group))?;
        }
        // An empty file is an empty database to SQLite, which gives its other files the same owner.
        let file =
            OpenOptions::new().write(true).create_new(true).mode(0o640).open(&self.database)?;
        fchown(&file, Some(user.uid), Some(group))
    }

    /// The database, to look; where there is none, its tables are empty, and it is not made.
    fn store_to_read(&self) -> Result<Store, AdminError> {
        match Store::open_to_read(&self.database) {
            Err(missing @ StoreError::Missing { .. }) => {
                output::note(missing);
                let owner = rustix::process::geteuid().as_raw();
                Ok(Store::empty(&self.database, owner)?)
            }
            result => Ok(result?),
        }
    }

    /// Files and tokens; PINs are asked on the terminal.
    fn key_store(&self) -> KeyStore {
        KeyStore::new(self.keys.clone(), Arc::new(prompt::TerminalPins))
    }
}

/// Carries `command` out, with its result on standard output.
pub fn run(command: &AdminCommand, context: &AdminContext) -> Result<(), AdminError> {
    let mut out = std::io::stdout().lock();
    run_to(command, context, &mut out)?;
    out.flush().map_err(AdminError::Output)
}

/// Carries `command` out, with its result in `out`.
pub fn run_to(
    command: &AdminCommand,
    context: &AdminContext,
    out: &mut dyn Write,
) -> Result<(), AdminError> {
    match command {
        AdminCommand::Identity(args) => identity::run(args, context, out),
        AdminCommand::Access(args) => access::run(args, context, out),
        AdminCommand::Disclosure(args) => disclosure::run(args, context, out),
        AdminCommand::Trust(args) => trust::run(args, context, out),
        AdminCommand::Policy(args) => policy::run(args, context, out),
        AdminCommand::Authorize(args) => authorize::run(args, context, out),
        AdminCommand::Pin(args) => pin::run(args, context, out),
        AdminCommand::Token(args) => token::run(args, context, out),
    }
}
