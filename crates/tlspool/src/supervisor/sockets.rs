//! The sockets where programs connect: made, taken over from the daemon before, or got from systemd.

use crate::config::{AbsolutePath, Config, FileMode, GroupName, Socket, UserName};
use crate::net::Listener;
use crate::users;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, chmodat, chownat};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, listen, socket_with,
};
use std::fs::Metadata;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Connections that wait to be accepted; the kernel takes less if net.core.somaxconn is less.
const BACKLOG: i32 = 4096;

/// Why we cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// A program listens there that is not the daemon of this PID file.
    #[error(
        "another program listens on {0}; end it, or choose another path (its PID: `ss -xlp src {0}`)"
    )]
    InUse(AbsolutePath),
    /// Something there is not a socket.
    #[error("{0} is there and is no socket; move it away, or choose another path")]
    NoSocket(AbsolutePath),
    /// The owner is not known.
    #[error(transparent)]
    User(#[from] users::UserError),
    /// The system refused.
    #[error("cannot {what} {path}: {source}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: AbsolutePath,
        /// Why.
        source: io::Error,
    },
}

fn failed(what: &'static str, path: &AbsolutePath) -> impl Fn(io::Error) -> SocketError {
    let path = path.clone();
    move |source| SocketError::Failed { what, path: path.clone(), source }
}

/// A listener for each socket of the configuration: from `inherited` if it is there, else new. Sockets
/// from systemd that no path of the configuration names are served too; the second list has others, whose paths go when
/// nobody serves them any more. Inherited ones are left as they are, see [`set_access`].
pub fn listeners(
    config: &Config,
    mut inherited: Vec<Listener>,
    from_systemd: bool,
) -> Result<(Vec<Listener>, Vec<Listener>), SocketError> {
    let mut listeners = Vec::new();
    for socket in &config.sockets {
        let position = inherited.iter().position(|l| same_place(&l.path, &socket.path));
        if let Some(position) = position {
            listeners.push(inherited.swap_remove(position));
        } else if !from_systemd {
            listeners.push(Listener { fd: listen_on(socket)?, path: socket.path.to_path_buf() });
        }
    }
    if from_systemd {
        listeners.append(&mut inherited);
    }
    Ok((listeners, inherited))
}

/// A socket in the file system, whatever happens to its path.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    /// Device and inode.
    file: Option<(u64, u64)>,
}

impl Place {
    /// What is at `path` now.
    pub fn of(path: &Path) -> Self {
        Self { path: path.to_owned(), file: file_at(path) }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is still what is at its path.
    pub fn is_there(&self) -> bool {
        self.file.is_some() && file_at(&self.path) == self.file
    }

    /// Takes it out of the file system. What another daemon has put in its place stays.
    pub fn remove(self) {
        if self.is_there() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn file_at(path: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(path).ok().map(|there| (there.dev(), there.ino()))
}

/// `/var/run` is a link to `/run`, and systemd reports what its unit said.
fn same_place(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| {
        let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
        folder.zip(path.file_name()).map(|(folder, name)| folder.join(name))
    };
    one == other || real(one).is_some_and(|path| Some(path) == real(other))
}

/// Makes a new listening socket. Nobody can connect before its mode and owner are right: it is made
/// with its mode, and listens after it has its owner.
fn listen_on(socket: &Socket) -> Result<OwnedFd, SocketError> {
    let path = &socket.path;
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed("make the folder of", path))?;
    }
    clear_stale(path)?;
    let fd = bind_at(path, socket.mode, SocketType::STREAM).map_err(failed("bind", path))?;
    set_owner(socket)?;
    listen(&fd, BACKLOG).map_err(|e| failed("listen on", path)(e.into()))?;
    Ok(fd)
}

/// Makes and binds a socket that has its permissions from the first moment.
pub(super) fn bind_at(path: &Path, mode: FileMode, kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::UNIX, kind, flags, None)?;
    let address = SocketAddrUnix::new(path)?;
    let before = rustix::process::umask(Mode::from_raw_mode(0o777 & !mode.0));
    let bound = bind(&fd, &address);
    rustix::process::umask(before);
    bound?;
    Ok(fd)
}

/// Removes a socket that nobody listens on.
fn clear_stale(path: &AbsolutePath) -> Result<(), SocketError> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("look at", path)(e)),
        Ok(there) if !there.file_type().is_socket() => {
            return Err(SocketError::NoSocket(path.clone()));
        }
        Ok(_) => {}
    }
    let refused = |kind| {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let probe = socket_with(AddressFamily::UNIX, kind, flags, None)?;
        connect(&probe, &SocketAddrUnix::new(&**path)?)
    };
    match refused(SocketType::STREAM) {
        Err(rustix::io::Errno::CONNREFUSED) => {
            std::fs::remove_file(path).map_err(failed("remove the leftover", path))
        }
        _ => Err(SocketError::InUse(path.clone())),
    }
}

fn owner(socket: &Socket) -> Result<(Option<u32>, Option<u32>), users::UserError> {
    let uid = match &socket.owner {
        Some(UserName(name)) => {
            Some(users::user(name).ok_or_else(|| users::UserError::NoUser(name.clone()))?.uid)
        }
        None => None,
    };
    let gid = match &socket.group {
        Some(GroupName(name)) => {
            Some(users::group(name).ok_or_else(|| users::UserError::NoGroup(name.clone()))?)
        }
        None => None,
    };
    Ok((uid, gid))
}

fn set_owner(socket: &Socket) -> Result<(), SocketError> {
    let (uid, gid) = owner(socket)?;
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    chownat(CWD, &*socket.path, uid, gid, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|e| failed("set the owner of", &socket.path)(e.into()))
}

/// How sockets were before [`set_access`].
#[derive(Debug, Default)]
pub struct FormerAccess(Vec<(PathBuf, Metadata)>);

impl FormerAccess {
    /// Makes them so again, as far as that is possible.
    pub fn restore(self) {
        for (path, was) in self.0.into_iter().rev() {
            let (uid, gid) = (Uid::from_raw(was.uid()), Gid::from_raw(was.gid()));
            let _ = chownat(CWD, &path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW);
            let mode = Mode::from_raw_mode(was.permissions().mode() & 0o777);
            let _ = chmodat(CWD, &path, mode, AtFlags::empty());
        }
    }
}

/// Brings sockets that listen already to the mode and owner of the configuration: all of them, or none if that
/// fails.
pub fn set_access(config: &Config) -> Result<FormerAccess, SocketError> {
    let mut former = FormerAccess::default();
    for socket in &config.sockets {
        if let Err(error) = set_access_of(socket, &mut former) {
            former.restore();
            return Err(error);
        }
    }
    Ok(former)
}

fn set_access_of(socket: &Socket, former: &mut FormerAccess) -> Result<(), SocketError> {
    let path = &socket.path;
    let there = std::fs::symlink_metadata(path).map_err(failed("look at", path))?;
    let (uid, gid) = owner(socket)?;
    let owners =
        uid.is_some_and(|uid| uid != there.uid()) || gid.is_some_and(|gid| gid != there.gid());
    let modes = there.permissions().mode() & 0o777 != socket.mode.0;
    if owners || modes {
        former.0.push((path.to_path_buf(), there));
    }
    if owners {
        set_owner(socket)?;
    }
    if modes {
        let mode = Mode::from_raw_mode(socket.mode.0);
        chmodat(CWD, &**path, mode, AtFlags::empty())
            .map_err(|e| failed("set the mode of", path)(e.into()))?;
    }
    Ok(())
}

/// The users and groups of all sockets exist; for `tlspool check`.
pub fn check_owners(config: &Config) -> Result<(), users::UserError> {
    config.sockets.iter().try_for_each(|socket| owner(socket).map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn config(dir: &tempfile::TempDir) -> Config {
        let mut config = Config::defaults();
        config.sockets = vec![Socket::at(AbsolutePath::new(dir.path().join("s/sock")).unwrap())];
        config
    }

    #[test]
    fn a_socket_has_its_mode_and_a_stale_one_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config(&dir);
        let path = config.sockets[0].path.clone();
        for mode in [0o660, 0o600] {
            config.sockets[0].mode = FileMode(mode);
            let (listeners, _) = listeners(&config, Vec::new(), false).unwrap();
            assert_eq!(listeners.len(), 1);
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            UnixStream::connect(&path).unwrap();
        }
    }

    #[test]
    fn a_socket_that_is_served_and_a_file_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(&dir);
        let path = &config.sockets[0].path;
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "precious").unwrap();
        let error = listeners(&config, Vec::new(), false).unwrap_err();
        assert!(matches!(error, SocketError::NoSocket(_)), "{error}");
        std::fs::remove_file(path).unwrap();
        let _other = UnixListener::bind(path).unwrap();
        let error = listeners(&config, Vec::new(), false).unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
    }

    #[test]
    fn only_what_was_there_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sock");
        let first = UnixListener::bind(&path).unwrap();
        let place = Place::of(&path);
        assert!(place.is_there());
        // Kept open, so that its inode is not used again.
        std::fs::rename(&path, dir.path().join("aside")).unwrap();
        let _second = UnixListener::bind(&path).unwrap();
        assert!(!place.is_there());
        place.remove();
        assert!(path.exists());
        Place::of(&path).remove();
        assert!(!path.exists());
        assert!(!Place::of(&path).is_there());
        drop(first);
    }

    #[test]
    fn inherited_sockets_are_used_and_those_no_longer_wanted_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut old = config(&dir);
        old.sockets.push(Socket::at(AbsolutePath::new(dir.path().join("gone")).unwrap()));
        let (first, _) = listeners(&old, Vec::new(), false).unwrap();
        let mut new = config(&dir);
        new.sockets[0].mode = FileMode(0o666);
        let waiting = UnixStream::connect(&new.sockets[0].path).unwrap();
        let (second, unwanted) = listeners(&new, first, false).unwrap();
        assert_eq!((second.len(), unwanted.len()), (1, 1));
        assert_eq!(unwanted[0].path, dir.path().join("gone"));
        assert!(unwanted[0].path.exists(), "somebody may serve it still");
        let mode = || std::fs::metadata(&new.sockets[0].path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o660, "the daemon before serves it still");
        let former = set_access(&new).unwrap();
        assert_eq!(mode(), 0o666);
        former.restore();
        assert_eq!(mode(), 0o660);
        // If one cannot be changed, none is.
        let mut partly = config(&dir);
        partly.sockets[0].mode = FileMode(0o666);
        partly.sockets.push(Socket::at(AbsolutePath::new(dir.path().join("none")).unwrap()));
        assert!(set_access(&partly).is_err());
        assert_eq!(mode(), 0o660);
        rustix::net::accept(&second[0].fd).unwrap();
        drop(waiting);
    }
}
