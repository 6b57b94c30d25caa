//! `completions` and `man`.

use crate::cli::{CompletionsArgs, ManArgs, definition};
use crate::error::{Error, Result};

/// Prints a completion script.
///
/// # Errors
/// [`Error::Io`] where standard output is closed.
pub fn completions(args: &CompletionsArgs) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "umbra", &mut script);
    std::io::Write::write_all(&mut std::io::stdout(), &script).map_err(|source| Error::Io {
        what: "write to",
        path: "standard output".into(),
        source,
    })
}

/// Writes one manual page a command.
///
/// # Errors
/// [`Error::Io`] with the directory.
pub fn man(args: &ManArgs) -> Result<()> {
    let context =
        |source| Error::Io { what: "write manual pages into", path: args.dir.clone(), source };
    std::fs::create_dir_all(&args.dir).map_err(context)?;
    clap_mangen::generate_to(definition(), &args.dir).map_err(context)
}
