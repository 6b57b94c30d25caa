//! The container's file, carried out far enough to run the program as a container would: in a root that holds what the
//! file copies and nothing else, as its user, with its variables. What an engine adds (networks, volumes) is not shown.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::chroot::Root;
use crate::env::{BuildEnv, make_world_readable_dir};
use crate::process;

/// What a container file says, of the instructions that ours uses.
#[derive(Debug, Default, PartialEq, Eq)]
struct Container {
    copies: Vec<Copy>,
    variables: Vec<(String, String)>,
    user: (u32, u32),
    entry: Vec<String>,
    arguments: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct Copy {
    from: Vec<String>,
    to: String,
    owner: (u32, u32),
}

/// Makes a store and serves it in a root made by the container file of an unpacked tarball.
///
/// # Errors
/// When the file says something unknown, or the vault does not run.
pub(super) fn check(env: &BuildEnv, tarball: &Path, place: &Path) -> Result<()> {
    let text = fs::read_to_string(tarball.join("Containerfile"))?;
    let container = Container::parse(&text)?;
    let root = Root { dir: place.join("container") };
    for copy in &container.copies {
        copy.carry_out(tarball, &root.dir)?;
    }
    // What an engine mounts.
    make_world_readable_dir(&root.dir.join("proc"))?;
    // A static program does not find the C library's getrandom by its name and reads these instead.
    let devices = root.dir.join("dev");
    make_world_readable_dir(&devices)?;
    for (name, minor) in [("random", "8"), ("urandom", "9")] {
        let mut mknod = env.command("mknod");
        mknod.args(["--mode=666"]).arg(devices.join(name)).args(["c", "1", minor]);
        process::output(&mut mknod)?;
    }
    let store = container.variable("UMBRA_STORE").context("the file names no store")?;
    process::output(&mut container.command(env, &root, &["init", store]))?;
    let mut arguments: Vec<&str> = container.arguments.iter().map(String::as_str).collect();
    arguments.extend(["--listen", "127.0.0.1:0", "--json"]);
    let mut serving = container.command(env, &root, &arguments).stdout(Stdio::piped()).spawn()?;
    let served = serve_and_end(env, &container, &root, &mut serving);
    // After success it has ended; after a failure it must not stay behind.
    let _ = serving.kill();
    let _ = serving.wait();
    served?;
    let files = super::files_below(&root.dir.join("licenses"))?;
    ensure!(files.len() == 3, "the container holds {} licence files", files.len());
    println!(
        "    container: init, serve, token and SIGTERM as uid {} in a root of its own",
        container.user.0
    );
    Ok(())
}

fn serve_and_end(
    env: &BuildEnv,
    container: &Container,
    root: &Root,
    serving: &mut Child,
) -> Result<()> {
    let said = serving.stdout.take().context("no output")?;
    let mut lines = BufReader::new(said).lines();
    let ready = lines.next().context("the vault said nothing")??;
    ensure!(ready.contains("\"ready\""), "the vault is not ready: {ready}");
    let token = ["agent", "token", "--machine", "m", "--address", "127.0.0.1:8407"];
    let token = process::output(&mut container.command(env, root, &token))?;
    ensure!(!token.is_empty(), "no token was printed");
    // unshare and chroot became the program, so that this is its own process id.
    process::output(env.command("kill").args(["-TERM", &serving.id().to_string()]))?;
    let status = serving.wait()?;
    ensure!(status.success(), "after SIGTERM the vault ended with {status}");
    Ok(())
}

impl Container {
    fn parse(text: &str) -> Result<Self> {
        let mut container = Self::default();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (instruction, rest) = line.split_once(' ').context("an instruction alone")?;
            match instruction {
                "FROM" => ensure!(rest == "scratch", "{rest} cannot be had here"),
                "COPY" => container.copies.push(Copy::parse(rest)?),
                "ENV" => {
                    let (name, value) = rest.split_once('=').context("ENV without a value")?;
                    container.variables.push((name.to_owned(), value.to_owned()));
                }
                "USER" => container.user = owner(rest)?,
                "ENTRYPOINT" => container.entry = serde_json::from_str(rest)?,
                "CMD" => container.arguments = serde_json::from_str(rest)?,
                "VOLUME" | "EXPOSE" | "STOPSIGNAL" => {}
                other => bail!("an instruction that is not known here: {other}"),
            }
        }
        ensure!(container.user.0 != 0, "the container runs as root");
        ensure!(!container.entry.is_empty(), "the container starts nothing");
        Ok(container)
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let (_, value) = self.variables.iter().find(|(known, _)| known == name)?;
        Some(value)
    }

    fn command(&self, env: &BuildEnv, root: &Root, arguments: &[&str]) -> Command {
        let user = format!("--userspec={}:{}", self.user.0, self.user.1);
        let mut program: Vec<&str> = self.entry.iter().map(String::as_str).collect();
        program.extend(arguments);
        let mut command = root.command(env, &[&user, "--groups="], &program);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }
}

impl Copy {
    fn parse(rest: &str) -> Result<Self> {
        let mut owned_by = (0, 0);
        let mut paths = Vec::new();
        for word in rest.split_whitespace() {
            match word.strip_prefix("--chown=") {
                Some(text) => owned_by = owner(text)?,
                None => paths.push(word.to_owned()),
            }
        }
        let to = paths.pop().context("COPY to nowhere")?;
        ensure!(!paths.is_empty(), "COPY of nothing");
        ensure!(paths.len() == 1 || to.ends_with('/'), "several files become one: {to}");
        Ok(Self { from: paths, to, owner: owned_by })
    }

    fn carry_out(&self, context: &Path, root: &Path) -> Result<()> {
        for from in &self.from {
            let source = context.join(from);
            let mut target = root.join(self.to.trim_start_matches('/'));
            if source.is_dir() {
                self.copy_tree(&source, &target)?;
                continue;
            }
            if self.to.ends_with('/') {
                target.push(source.file_name().context("a file without a name")?);
            }
            self.copy_file(&source, &target)?;
        }
        Ok(())
    }

    /// Copies what is in a directory; the directory itself only becomes one where there is none, as engines do.
    fn copy_tree(&self, source: &Path, target: &Path) -> Result<()> {
        make_world_readable_dir(target)?;
        for entry in fs::read_dir(source)? {
            let from = entry?.path();
            let to: PathBuf = target.join(from.file_name().unwrap_or_default());
            if from.is_dir() {
                self.copy_tree(&from, &to)?;
                chown(&to, Some(self.owner.0), Some(self.owner.1))?;
            } else {
                self.copy_file(&from, &to)?;
            }
        }
        Ok(())
    }

    fn copy_file(&self, from: &Path, to: &Path) -> Result<()> {
        if let Some(dir) = to.parent() {
            make_world_readable_dir(dir)?;
        }
        fs::copy(from, to).with_context(|| format!("COPY {}", from.display()))?;
        chown(to, Some(self.owner.0), Some(self.owner.1))?;
        Ok(())
    }
}

/// Reads `UID:GID`; names would need an `/etc/passwd`, which an empty root has not.
fn owner(text: &str) -> Result<(u32, u32)> {
    let (user, group) = text.split_once(':').with_context(|| format!("{text} is not UID:GID"))?;
    Ok((user.parse().context("a user's number")?, group.parse().context("a group's number")?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{Container, Copy};

    #[test]
    fn our_file_is_understood() {
        let ours = include_str!("../../../vault/packaging/Containerfile");
        let container = Container::parse(ours).unwrap();
        assert_eq!(container.user, (8407, 8407));
        assert_eq!(container.entry, ["/umbra-vault"]);
        assert_eq!(container.arguments, ["serve"]);
        assert_eq!(container.variable("UMBRA_STORE"), Some("/umbra/store"));
        assert_eq!(container.copies.len(), 3);
    }

    #[test]
    fn a_copy_names_owner_sources_and_target() {
        let copy = Copy::parse("--chown=7:8 a b /c/").unwrap();
        let from = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(copy, Copy { from, to: "/c/".to_owned(), owner: (7, 8) });
        assert!(Copy::parse("a").is_err() && Copy::parse("a b /c").is_err());
        assert!(Copy::parse("--chown=root:root a /c").is_err());
    }

    #[test]
    fn what_is_not_known_or_runs_as_root_is_refused() {
        let entry = "ENTRYPOINT [\"/x\"]\n";
        assert!(Container::parse(&format!("FROM scratch\nUSER 1:1\n{entry}")).is_ok());
        assert!(Container::parse(&format!("FROM scratch\n{entry}")).is_err());
        assert!(Container::parse(&format!("FROM debian\nUSER 1:1\n{entry}")).is_err());
        assert!(Container::parse(&format!("FROM scratch\nUSER 1:1\nRUN x\n{entry}")).is_err());
        assert!(Container::parse("FROM scratch\nUSER 1:1\n").is_err());
    }
}
