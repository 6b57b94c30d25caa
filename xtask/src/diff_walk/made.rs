//! The images that are made for the comparison: each kind in each state.

use anyhow::{Context, Result, bail};
use umbra_fsparse::{ByteOffset, ByteRange, ReadAt};
use umbra_walkdiff::image::ImageFile;
use umbra_walkdiff::made::{Outcome, State, VARIANTS, make};
use umbra_walkdiff::volume::{Verdict, diff};

use super::{Total, report};

/// Makes and compares all, or those of one kind.
pub(super) fn all(only: Option<&str>, seed: u32, total: &mut Total) -> Result<()> {
    let chosen = VARIANTS.iter().filter(|variant| only.is_none_or(|only| only == variant.name));
    let mut refused = Vec::new();
    let mut any = false;
    for variant in chosen {
        any = true;
        for state in State::ALL {
            let name = format!("{} {state:?}", variant.name);
            let made = make(variant, state, seed, |_| Ok(()));
            let made = match made.with_context(|| name.clone())? {
                Outcome::Made(made) => made,
                Outcome::Refused(reason) => {
                    println!("{name}: cannot be made here: {reason}");
                    total.not_compared += 1;
                    refused.push(name);
                    continue;
                }
            };
            let copy = made.copy("copy.img")?;
            let disk = ImageFile::open(made.image())?;
            let whole = ByteRange::new(ByteOffset(0), disk.len()).context("its length")?;
            let mut verdict = diff(&disk, whole, &copy, made.dir());
            if let Ok(Verdict::Compared { stages, .. }) = &mut verdict
                && declared(variant.name, state)
            {
                println!(
                    "{name}: fast commits are refused, not replayed: only what the kernel recovered"
                );
                stages.retain(|stage| stage.name != "as it stands");
            }
            report(&name, &verdict.with_context(|| name.clone())?, total);
        }
    }
    if !any {
        let names: Vec<&str> = VARIANTS.iter().map(|variant| variant.name).collect();
        bail!("no kind {}; there are {}", only.unwrap_or_default(), names.join(", "));
    }
    if !refused.is_empty() {
        println!("not made here: {}", refused.join(", "));
    }
    Ok(())
}

/// True where our parser says that it cannot read what stands in the journal.
fn declared(name: &str, state: State) -> bool {
    name == "fast-commit" && state == State::Dirty
}
