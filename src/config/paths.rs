//! Where the service keeps its settings, and as whom it reads what they name: so that a command typed by root takes the same
//! settings, and does not take for well what only root can read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::files;

/// Read when it exists; the systemd unit hands it over as a credential.
pub const CONFIG_ENV: &str = "/etc/pia-qbittorrent-sync/config.env";
/// Where the systemd unit takes its credentials from, so that commands typed by hand see what the service sees.
pub const CREDENTIALS: &str = "/etc/pia-qbittorrent-sync/credentials";
/// `OpenRC`'s place.
const CONF_D: &str = "/etc/conf.d/pia-qbittorrent-sync";
/// The systemd unit, and its addition where systemd is too old for credentials (install.sh).
const UNITS: [&str; 2] =
    ["/etc/systemd/system/pia-qbittorrent-sync.service", "/usr/lib/systemd/system/pia-qbittorrent-sync.service"];
const WITHOUT_CREDENTIALS: &str = "/etc/systemd/system/pia-qbittorrent-sync.service.d/before-247.conf";
const INIT_SCRIPT: &str = "/etc/init.d/pia-qbittorrent-sync";
/// The user of the service where systemd does not make one up.
const USER: &str = "pia-sync";
/// What the unit's `ProtectHome=` and `PrivateTmp=` hide.
const HIDDEN_BY_UNIT: [&str; 5] = ["/home", "/root", "/run/user", "/tmp", "/var/tmp"];

/// The file with the settings, where nobody named one; none where there is none.
pub fn settings_file(credentials: Option<&Path>) -> Option<PathBuf> {
    let handed_over = credentials.map(|folder| folder.join("config.env"));
    let by_openrc = Path::new("/run/openrc/softlevel").exists();
    let places = if by_openrc { [CONF_D, CONFIG_ENV] } else { [CONFIG_ENV, CONF_D] };
    handed_over.into_iter().chain(places.map(PathBuf::from)).find(|path| path.exists())
}

/// Whether a shell reads the file as well: `OpenRC` its conf.d, of which the init script makes a copy for us.
pub fn is_read_by_shell(path: &Path) -> bool {
    path.parent().is_some_and(|folder| folder.ends_with("conf.d"))
}

/// The file as its owner knows it, where `path` is what the service was handed.
pub fn known_as(path: &Path) -> &Path {
    if path.starts_with("/run/credentials") {
        Path::new(CONFIG_ENV)
    } else if path.starts_with("/run/pia-qbittorrent-sync/conf.d") {
        Path::new(CONF_D)
    } else {
        path
    }
}

/// Whoever the service runs as.
#[derive(Debug, PartialEq, Eq)]
pub struct ServiceUser {
    /// User and group; none for one that systemd makes up at each start.
    ids: Option<(u32, u32)>,
    hidden: &'static [&'static str],
}

impl ServiceUser {
    /// The user of the service whose settings `file` has; none where no service is installed that has them.
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

    /// One that systemd makes up, and hides nothing from.
    #[cfg(test)]
    pub fn made_up() -> Self {
        Self { ids: None, hidden: &[] }
    }

    /// Whether it can read the file at `path`, by modes and owners; the error is for people.
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
        // A folder has to be entered, which is its execute bit.
        if let Some(closed) = real.ancestors().skip(1).find(|folder| !may(folder, 0o1)) {
            return Err(Unreachable::Hidden(closed.display().to_string()));
        }
        if may(&real, 0o4) { Ok(()) } else { Err(Unreachable::Denied(self.ids.is_some())) }
    }
}

/// Why the service does not reach a file that root reads.
#[derive(Debug, PartialEq, Eq)]
pub enum Unreachable {
    /// It is in a folder that the unit hides, or that is closed to the service's user.
    Hidden(String),
    /// It belongs to somebody else; whether it could be given to the service's user.
    Denied(bool),
}

impl Unreachable {
    /// What is wrong, and what would be right.
    pub fn describe(&self, path: &Path) -> (String, String) {
        match self {
            Self::Hidden(folder) => {
                (format!("the service cannot look into {folder}"), "move it to /etc/pia-qbittorrent-sync".to_owned())
            }
            Self::Denied(true) => {
                ("the service may not read it".to_owned(), format!("type: chown {USER} {}", path.display()))
            }
            Self::Denied(false) => (
                "the service may not read it".to_owned(),
                "chmod 644 it if it is a certificate; a secret belongs into /etc/pia-qbittorrent-sync/credentials/NAME"
                    .to_owned(),
            ),
        }
    }
}

/// User and group of `name` in the text of /etc/passwd.
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
    fn a_user_has_numbers() {
        let users =
            "root:x:0:0:root:/root:/bin/sh\npia-sync2:x:9:9::/:/x\npia-sync:x:101:102:Linux User:/:/sbin/nologin\n";
        assert_eq!(ids_of("pia-sync", users), Some((101, 102)));
        assert_eq!(ids_of("nobody", users), None);
    }

    #[test]
    fn what_root_reads_the_service_may_not() {
        let dir = TempDir::new();
        // Folders that others can enter: of this machine's temporary ones that is not certain.
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
        assert_eq!(user(None).may_read(&path), Err(Unreachable::Hidden(closed)), "its folder cannot be entered");
        let hidden = ServiceUser { ids: None, hidden: &["/tmp", "/var/tmp"] };
        assert_eq!(hidden.may_read(Path::new("/tmp/secret")), Err(Unreachable::Hidden("/tmp".to_owned())));
    }

    #[test]
    fn a_file_has_one_name_for_people() {
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
