//! `completions` and `man`.

use serde_json::json;

use crate::cli::{CompletionsArgs, Global, ManArgs, Output, definition};
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
pub fn man(global: &Global, args: &ManArgs, output: &Output) -> Result<()> {
    let context =
        |source| Error::Io { what: "write manual pages into", path: args.dir.clone(), source };
    let verb = if global.dry_run {
        "would write"
    } else {
        std::fs::create_dir_all(&args.dir).map_err(context)?;
        clap_mangen::generate_to(definition(), &args.dir).map_err(context)?;
        "wrote"
    };
    let dir = args.dir.display();
    output.note(&format!("{verb} the manual pages; read one with `man -l {dir}/umbra.1`"))?;
    output.object("summary", json!({"dir": args.dir, "dry_run": global.dry_run}))
}
