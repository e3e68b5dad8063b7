//! Default paths of the service's settings, and the user that the service runs as. With both, a command run by root uses the
//! service's settings and reports files that the service cannot read. `file.rs` parses the settings.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::geteuid;

use crate::files;

/// Default settings file. The systemd unit passes this file to the service as a credential.
pub const CONFIG_ENV: &str = "/etc/pia-qbittorrent-sync/config.env";
/// Folder with the sources of the systemd unit's credentials. Manual commands read these files directly.
pub const CREDENTIALS: &str = "/etc/pia-qbittorrent-sync/credentials";
/// Settings file under `OpenRC`.
const CONF_D: &str = "/etc/conf.d/pia-qbittorrent-sync";
/// Possible locations of the systemd unit.
const UNITS: [&str; 2] =
    ["/etc/systemd/system/pia-qbittorrent-sync.service", "/usr/lib/systemd/system/pia-qbittorrent-sync.service"];
/// Drop-in that install.sh adds on systemd before 247, which does not support credentials.
const WITHOUT_CREDENTIALS: &str = "/etc/systemd/system/pia-qbittorrent-sync.service.d/before-247.conf";
const INIT_SCRIPT: &str = "/etc/init.d/pia-qbittorrent-sync";
/// Longest chain of links that is followed.
const MAX_LINKS: usize = 16;
/// The service's user, unless systemd allocates a dynamic one.
const USER: &str = "pia-sync";
/// Folders that the unit's `ProtectHome=` and `PrivateTmp=` hide.
const HIDDEN_BY_UNIT: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// First default settings file that exists: the service's credential, then the files in /etc.
pub fn settings_file(credentials: Option<&Path>) -> Option<PathBuf> {
    let handed_over = credentials.map(|folder| folder.join("config.env"));
    let by_openrc = Path::new("/run/openrc/softlevel").exists();
    let places = if by_openrc { [CONF_D, CONFIG_ENV] } else { [CONFIG_ENV, CONF_D] };
    handed_over.into_iter().chain(places.map(PathBuf::from)).find(|path| path.exists())
}

/// True if a shell also reads the file: `OpenRC` sources the files in conf.d, and the init script gives the service a copy of ours.
pub fn is_read_by_shell(path: &Path) -> bool {
    path.parent().is_some_and(|folder| folder.ends_with("conf.d"))
}

/// Path as the user knows it: the original's if `path` is the service's copy, otherwise `path` itself.
pub fn known_as(path: &Path) -> &Path {
    if path.starts_with("/run/credentials") {
        Path::new(CONFIG_ENV)
    } else if path.starts_with("/run/pia-qbittorrent-sync/conf.d") {
        Path::new(CONF_D)
    } else {
        path
    }
}

/// The user that the service runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceUser {
    /// User and group ID; `None` for a dynamic user, which systemd allocates at each start.
    ids: Option<(u32, u32)>,
    /// Folders that the systemd unit hides from the service; empty under `OpenRC`.
    hidden: &'static [&'static str],
}

impl ServiceUser {
    /// The user of the service that reads its settings from `file`; `None` if no such service is installed.
    pub fn of(file: &Path) -> Option<Self> {
        let users = files::read(Path::new("/etc/passwd")).ok()?;
        if file == Path::new(CONF_D) && Path::new(INIT_SCRIPT).exists() {
            return Some(Self { ids: Some(ids_of(USER, &users)?), hidden: &[] });
        }
        if file != Path::new(CONFIG_ENV) || !UNITS.iter().any(|unit| Path::new(unit).exists()) {
            return None;
        }
        let ids = if Path::new(WITHOUT_CREDENTIALS).exists() { Some(ids_of(USER, &users)?) } else { None };
        Some(Self { ids, hidden: &HIDDEN_BY_UNIT })
    }

    /// A dynamic user without hidden folders.
    #[cfg(test)]
    pub fn dynamic() -> Self {
        Self { ids: None, hidden: &[] }
    }

    /// Checks that this user can read the file at `path`, as far as owners, modes and hidden folders show.
    pub fn may_read(&self, path: &Path) -> Result<(), Unreachable> {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if let Some(hidden) = self.hidden.iter().find(|hidden| real.starts_with(hidden)) {
            return Err(Unreachable::Hidden((*hidden).to_owned()));
        }
        let may = |path: &Path, bits: u32| {
            fs::metadata(path).is_ok_and(|file| {
                let class = match self.ids {
                    Some((user, _)) if user == file.uid() => 6,
                    Some((_, group)) if group == file.gid() => 3,
                    _ => 0,
                };
                file.mode() >> class & bits == bits
            })
        };
        // Entering a folder requires its execute bit.
        if let Some(closed) = real.ancestors().skip(1).find(|folder| !may(folder, 0o1)) {
            return Err(Unreachable::Hidden(closed.display().to_string()));
        }
        if may(&real, 0o4) { Ok(()) } else { Err(Unreachable::Denied(self.ids.is_some())) }
    }
}

/// Obstacle that keeps the service from reading a file that root can read.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// Folder that the unit hides, or that the service's user cannot enter.
    Hidden(String),
    /// The file's mode excludes the service's user. True if `chown` can help: that user is not dynamic.
    Denied(bool),
}

impl Unreachable {
    /// Returns the problem and its remedy.
    pub fn describe(&self, path: &Path) -> (String, String) {
        match self {
            Self::Hidden(folder) => {
                (format!("is in {folder}, hidden from the service"), "move it to /etc/pia-qbittorrent-sync".to_owned())
            }
            Self::Denied(true) => {
                let path = path.display();
                let remedy = format!("run: chown root:{USER} {path} && chmod 640 {path}");
                ("is not readable by the service".to_owned(), remedy)
            }
            Self::Denied(false) => (
                "is not readable by the service".to_owned(),
                "run chmod 644 on a certificate, or move a secret to /etc/pia-qbittorrent-sync/credentials/NAME"
                    .to_owned(),
            ),
        }
    }
}

/// User and group ID of the service's user; `None` if there is no such user.
pub fn service_ids() -> Option<(u32, u32)> {
    ids_of(USER, &files::read(Path::new("/etc/passwd")).ok()?)
}

/// What another user can do to a file that root reads: a command of root's would use that user's settings, or send a file of root's
/// as a password. `file` is the metadata of the file that was read at `path`. `None` if this process is not root's, or if only root
/// can change the file.
pub fn changeable(path: &Path, file: &Metadata) -> Option<(String, String)> {
    if !geteuid().is_root() {
        return None;
    }
    let shown = files::display_path(path);
    if file.uid() != 0 || file.mode() & 0o022 != 0 {
        let problem = format!("can be changed by a user other than root (owner {})", file.uid());
        let service = service_ids().is_some();
        let (owner, mode) = if service { (format!("root:{USER}"), 640) } else { ("root".to_owned(), 600) };
        return Some((problem, format!("run: chown {owner} {shown} && chmod {mode} {shown}")));
    }
    let open = open_above(path, 0)?;
    let problem = format!("can be replaced by a user other than root, who can write to {}", open.display());
    Some((problem, "move it to /etc/pia-qbittorrent-sync".to_owned()))
}

/// A folder, or a link, on the way to `path` with which a user other than root and `uid` can make the path lead to a different
/// place.
pub fn open_above(path: &Path, uid: u32) -> Option<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if let Some(open) = path.ancestors().skip(1).find(|folder| is_open(folder, uid)) {
            return Some(open.to_owned());
        }
        // The next stop is behind the first link on the way, which is as good as its own folder.
        let link = path.ancestors().collect::<Vec<_>>().into_iter().rev().find(|at| at.is_symlink())?;
        // In a folder with the sticky bit, only the link's owner can replace it.
        if fs::symlink_metadata(link).is_ok_and(|link| link.uid() != 0 && link.uid() != uid) {
            return Some(link.to_owned());
        }
        let target = link.parent()?.join(fs::read_link(link).ok()?);
        let rest = path.strip_prefix(link).ok()?;
        path = if rest.as_os_str().is_empty() { target } else { target.join(rest) };
    }
    Some(path)
}

/// True if a user other than root and `uid` can replace what is in `folder`.
fn is_open(folder: &Path, uid: u32) -> bool {
    !folder.as_os_str().is_empty()
        && fs::metadata(folder).is_ok_and(|folder| files::is_open_folder(folder.uid(), folder.mode(), uid))
}

/// User and group ID of `name`; `users` is the content of /etc/passwd.
fn ids_of(name: &str, users: &str) -> Option<(u32, u32)> {
    let user = users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let mut fields = user.split(':').skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::testing::TempDir;

    #[test]
    fn user_and_group_ids_are_parsed() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\npia-sync2:x:9:9::/:/x\npia-sync:x:101:102:Linux User:/:/sbin/nologin\n";
        assert_eq!(ids_of("pia-sync", users), Some((101, 102)));
        assert_eq!(ids_of("nobody", users), None);
    }

    #[test]
    fn a_file_that_root_can_read_may_be_closed_to_the_service() {
        let dir = TempDir::new();
        // A temporary folder may be closed to other users.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let path = dir.write("secret", "x");
        let owner = fs::metadata(&path).unwrap();
        let user = |ids| ServiceUser { ids, hidden: &[] };
        let stranger = (owner.uid() + 1, owner.gid() + 1);
        for (mode, ids, reads) in [
            (0o600, Some((owner.uid(), 1)), true),
            (0o600, Some(stranger), false),
            (0o640, Some((stranger.0, owner.gid())), true),
            (0o604, None, true),
            (0o640, None, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(user(ids).may_read(&path).is_ok(), reads, "{mode:o} {ids:?}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let closed = dir.path().display().to_string();
        assert_eq!(user(None).may_read(&path), Err(Unreachable::Hidden(closed)), "the user cannot enter the folder");
        let hidden = ServiceUser { ids: None, hidden: &["/tmp", "/var/tmp"] };
        assert_eq!(hidden.may_read(Path::new("/tmp/secret")), Err(Unreachable::Hidden("/tmp".to_owned())));
    }

    #[test]
    fn a_copy_is_shown_as_its_original() {
        for (path, name) in [
            ("/run/credentials/pia-qbittorrent-sync.service/config.env", CONFIG_ENV),
            ("/run/pia-qbittorrent-sync/conf.d/pia-qbittorrent-sync", CONF_D),
            ("/tmp/x", "/tmp/x"),
        ] {
            assert_eq!(known_as(Path::new(path)), Path::new(name));
        }
        assert!(is_read_by_shell(Path::new(CONF_D)) && !is_read_by_shell(Path::new(CONFIG_ENV)));
    }
}
