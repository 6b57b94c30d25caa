//! What the arguments of `backup` name, and whether that may be read.

use std::fs::File;
use std::io::BufRead;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use umbra_common::snapshot::{Consistency, Method};

use crate::cli::{BackupArgs, Global};
use crate::config;
use crate::error::{Error, Result};
use crate::mounts::{Access, System, Use};
use crate::own_store::{OwnStore, Role};
use crate::source::{self, Changes, Source, SourceKind};

/// Standard input as an argument.
const STDIN: &str = "-";

/// Where the bytes of a source come from.
pub(super) enum Origin {
    /// A disk that can be read anywhere.
    Disk(Box<Source>),
    /// Standard input.
    Stream,
}

/// A source that may be read.
pub(super) struct Opened {
    pub(super) input: Origin,
    /// How sound the reading will be.
    pub(super) method: Method,
    /// The disk's name.
    pub(super) disk: String,
}

impl Opened {
    /// Returns what the argument named.
    pub(super) fn path(&self) -> &Path {
        match &self.input {
            Origin::Disk(source) => source.path(),
            Origin::Stream => Path::new(STDIN),
        }
    }
}

/// What a source may not be, and how the system uses it.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    pub(super) own: &'a OwnStore,
    pub(super) system: &'a System,
}

/// Opens a source and says how it may be read.
pub(super) fn open(
    path: &Path,
    args: &BackupArgs,
    global: &Global,
    surroundings: Surroundings<'_>,
) -> Result<Opened> {
    if let Some(name) = &global.disk {
        config::check_name("disk", name)?;
    }
    if path == Path::new(STDIN) {
        let disk = global.disk.clone().ok_or_else(|| Error::Usage {
            what: "standard input has no name".into(),
            hint: "give one with --disk NAME".into(),
        })?;
        let method = open_stdin(args, surroundings)?;
        return Ok(Opened { input: Origin::Stream, method, disk });
    }
    let Surroundings { own, system } = surroundings;
    let source = Source::open(path)?;
    match source.kind() {
        SourceKind::BlockDevice => {
            own.refuse_device(path, source.metadata().rdev(), Role::Source, system)?;
        }
        SourceKind::ImageFile => own.refuse_file(path, path, Role::Source)?,
    }
    let (method, changes) = judge(path, &source.uses(system), args)?;
    let disk = global.disk.clone().unwrap_or_else(|| default_name(&source));
    Ok(Opened { input: Origin::Disk(Box::new(source.on_changes(changes))), method, disk })
}

/// Looks at standard input, which may be a device or a file too, and waits for its first byte.
fn open_stdin(args: &BackupArgs, surroundings: Surroundings<'_>) -> Result<Method> {
    let Surroundings { own, system } = surroundings;
    let path = Path::new("standard input");
    let failed = |source| Error::Io { what: "read", path: path.into(), source };
    let stdin = std::io::stdin();
    let file = File::from(stdin.as_fd().try_clone_to_owned().map_err(failed)?);
    let metadata = file.metadata().map_err(failed)?;
    let uses = if metadata.file_type().is_block_device() {
        own.refuse_device(path, metadata.rdev(), Role::Source, system)?;
        system.uses_of_device(metadata.rdev())
    } else if metadata.is_file() {
        own.refuse_file(path, Path::new("/proc/self/fd/0"), Role::Source)?;
        system.uses_of_file(&metadata)
    } else {
        Vec::new()
    };
    let (mut method, _) = judge(path, &uses, args)?;
    method.text = format!("standard input, {}", method.text);
    // What was read so far stays in the buffer that all of this program share.
    if stdin.lock().fill_buf().map_err(failed)?.is_empty() {
        return Err(source::empty(path));
    }
    Ok(method)
}

/// Says how sound it is to read what has these uses, and what follows where it changes.
fn judge(path: &Path, uses: &[Use], args: &BackupArgs) -> Result<(Method, Changes)> {
    let Some(written) = uses.iter().find(|used| used.access == Access::Writes) else {
        let text = uses.first().map_or("not in use", |used| used.what.as_str()).to_owned();
        let changes = if args.inconsistent_ok { Changes::Marked } else { Changes::Refused };
        return Ok((Method { consistency: Consistency::Offline, text }, changes));
    };
    if !args.inconsistent_ok {
        return Err(Error::Refused {
            path: path.into(),
            reason: format!("it is {}", written.what),
            hint: "unmount it, mount it read-only or stop what uses it; --inconsistent-ok makes a \
                   snapshot that is marked fuzzy for ever"
                .into(),
        });
    }
    let text = format!("read while {}", written.what);
    Ok((Method { consistency: Consistency::Fuzzy, text }, Changes::Expected))
}

/// Returns a device's by-id name, or an image's file name, made to fit.
fn default_name(source: &Source) -> String {
    let own = source.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
    if source.kind() == SourceKind::BlockDevice
        && let Ok(device) = source.path().canonicalize()
    {
        let mut names: Vec<String> = std::fs::read_dir("/dev/disk/by-id")
            .into_iter()
            .flatten()
            .flatten()
            .filter(|link| link.path().canonicalize().is_ok_and(|target| target == device))
            .map(|link| link.file_name().to_string_lossy().into_owned())
            // A wwn says less to a person than the model and serial number.
            .filter(|name| !name.starts_with("wwn-"))
            .collect();
        names.sort_unstable();
        if let Some(name) = names.first() {
            return config::fit_name(name, "disk");
        }
    }
    config::fit_name(&own, "disk")
}
