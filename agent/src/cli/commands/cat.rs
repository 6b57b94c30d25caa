//! `cat`: one file to standard output.

use std::io::{BufWriter, Write};

use umbra_fsparse::FileType;

use crate::browse::{Browser, Links, damage_in, display, short};
use crate::cli::{CatArgs, Global, Output};
use crate::content::{Piece, for_zeros};
use crate::error::{Error, Result};

use super::open::{Opened, split_path};

/// Bytes collected before they are written.
const BUFFER_BYTES: usize = 256 << 10;

/// Writes the content of one file to standard output; symbolic links are followed.
///
/// # Errors
/// [`Error::NotFound`], [`Error::Usage`] for something that has no content. [`Error::Damage`] comes
/// after the bytes that could be read, [`Error::Partial`] after zeros for what the backup could not
/// read, and without a byte for what is encrypted.
pub fn run(global: &Global, args: &CatArgs, output: &Output) -> Result<()> {
    let (name, path) = split_path(&args.target)?;
    let opened = Opened::new(global, name)?;
    let browser = Browser::new(&opened.snapshot, &opened.nodes);
    let place = browser.find(path, Links::Follow)?;
    if place.entry.record.file_type != FileType::File {
        return Err(Error::Usage {
            what: format!("{} is no regular file", display(path)),
            hint: "`umbra ls` shows what it is, `umbra restore` brings it back".into(),
        });
    }
    if place.entry.record.is_encrypted() {
        let id = opened.snapshot.reference.id.to_string();
        let (path, id) = (display(path), short(&id));
        let what = format!(
            "{path} of snapshot {id} is encrypted (fscrypt): what was backed up is ciphertext, and \
             the key is not in the snapshot; bring the whole disk back with `umbra recover {id} \
             --to FILE`, mount it and unlock the file there"
        );
        return Err(Error::Partial { what });
    }
    let failed = |source| Error::Io { what: "write to", path: "standard output".into(), source };
    let content = opened.content()?;
    output.content_follows();
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, std::io::stdout().lock());
    let end = content.read_file(&place.entry, &mut |piece| match piece {
        Piece::Data(bytes) => out.write_all(bytes).map_err(failed),
        Piece::Zeros(_, len) => for_zeros(len, |zeros| out.write_all(zeros).map_err(failed)),
    })?;
    out.flush().map_err(failed)?;
    if let Some(damage) = end.damage {
        return Err(damage_in(&opened.snapshot, &display(path), damage));
    }
    if end.not_kept > 0 {
        let what = format!(
            "{} bytes of {} could not be read by the backup; they were written as zeros",
            end.not_kept,
            display(path)
        );
        return Err(Error::Partial { what });
    }
    Ok(())
}
