//! The command line of `umbra-vault`.

mod check;
mod embedded;
mod forget;
mod gc;
mod hold;
mod housekeeping;
mod output;
mod policy;
mod serve;

use crate::admin::{self, Answer, Remote, Request};
use crate::care::Verb;
use crate::config::Config;
use crate::enrol::NewToken;
use crate::error::{Result, VaultError, chain};
use crate::place::{Mode, Place};
use clap::builder::FalseyValueParser;
use clap::{Args, CommandFactory, Parser, Subcommand};
use output::Output;
use serde_json::json;
use std::net::{SocketAddr, UdpSocket};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::ExitCode;
use umbra_common::wire::DEFAULT_PORT;

/// The vault of umbra: keeps disks and files of many machines, each byte once.
#[derive(Debug, Parser)]
#[command(name = "umbra-vault", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Clone, Debug, Args)]
struct Global {
    /// Configuration file.
    #[arg(long, global = true, env = "UMBRA_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// One JSON object a line on standard output; the last is the summary.
    #[arg(long, global = true, env = "UMBRA_JSON", value_parser = FalseyValueParser::new())]
    json: bool,
}

/// The store that a command is about.
#[derive(Clone, Debug, Args)]
struct StoreArg {
    /// Directory of the store.
    #[arg(long, env = "UMBRA_STORE", value_name = "DIR")]
    store: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a store, with a key of its own.
    Init {
        /// A new or empty directory.
        dir: PathBuf,
    },
    /// Serve a store to agents until SIGTERM.
    Serve {
        #[command(flatten)]
        store: StoreArg,
        /// Address and UDP port to listen on [default: all addresses, port 8407].
        #[arg(long, env = "UMBRA_LISTEN", value_name = "ADDR:PORT")]
        listen: Option<String>,
    },
    /// Serve a store to the command that started this one, while its pipe is open.
    #[command(hide = true)]
    Embedded {
        #[command(flatten)]
        store: StoreArg,
        /// Open the store for reading only.
        #[arg(long)]
        read_only: bool,
    },
    /// Show how the vault is; exit code 3 where a machine has no snapshot in 24 hours.
    Status(StoreArg),
    /// Let machines in, and list them.
    #[command(subcommand)]
    Agent(AgentCommand),
    /// Say which snapshots are kept; nothing is forgotten while no policy is set.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// Hide snapshots; a later `gc` gives their space back.
    Forget(forget::ForgetArgs),
    /// Keep snapshots whatever policy and `forget` say.
    Protect(forget::ProtectArgs),
    /// End the protection of snapshots.
    Unprotect(forget::ProtectArgs),
    /// Hold all of a machine, a disk or one snapshot, or let go of it.
    ///
    /// While a hold lasts, nothing of it is forgotten and no space of it is given back, of
    /// snapshots to come either.
    Hold(hold::HoldArgs),
    /// Give back the space of what no snapshot needs.
    ///
    /// Runs beside backups and restores; waits for the backups that began before it.
    Gc(gc::GcArgs),
    /// Look for damage and name the snapshots and files that it hits; repair it on request.
    ///
    /// Works on a stopped store and beside a running vault. Exit code 4 where damage was found.
    Check(check::CheckArgs),
    /// Copy what can still be read of a store on a failing disk into a new directory.
    ///
    /// The copy is the same store, for the same agents; use only the copy from then on. What is
    /// lost is named as by a check; exit code 4 where something is.
    Salvage {
        #[command(flatten)]
        store: StoreArg,
        /// A new or empty directory, on another disk.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Make the index anew from packs, receipts and LOG.
    RebuildIndex(StoreArg),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write manual pages.
    Man {
        /// The directory to write into.
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
enum AgentCommand {
    /// Print a token with which a machine can enrol.
    Token(TokenArgs),
    /// List machines.
    List(StoreArg),
}

#[derive(Debug, Args)]
struct TokenArgs {
    #[command(flatten)]
    store: StoreArg,
    /// What the machine may do: agent, imager, restore, operator or admin.
    #[arg(long, default_value = "agent")]
    role: String,
    /// The name that the machine gets; without it, the one that it gives itself.
    #[arg(long, value_name = "NAME")]
    machine: Option<String>,
    /// A word about the token, for the record.
    #[arg(long, value_name = "WORD")]
    name: Option<String>,
    /// How many machines may use it.
    #[arg(long, default_value_t = 1, value_name = "N")]
    uses: u32,
    /// How long it is good: seconds, or a number with s, m, h or d.
    #[arg(long, default_value = "24h", value_name = "DURATION", value_parser = seconds)]
    ttl: u64,
    /// Where agents find the vault, HOST:PORT; may be given more than once.
    #[arg(long, value_name = "HOST:PORT")]
    address: Vec<String>,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let output = Output::new(cli.global.json);
    if let Err(names) = arm_failpoint() {
        output.error(&format!("there are these fail points:\n{names}"), None, 2);
        return ExitCode::from(2);
    }
    match run(&cli, &output) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            output.error(&chain(&error), error.hint().as_deref(), error.exit_code());
            ExitCode::from(error.exit_code())
        }
    }
}

/// Lets this process die at a named moment, where a test asks for that (`UMBRA_FAILPOINT=NAME:COUNT`).
fn arm_failpoint() -> Result<(), String> {
    match std::env::var("UMBRA_FAILPOINT") {
        Ok(text) => umbra_store::failpoint::arm(&text),
        Err(_) => Ok(()),
    }
}

fn run(cli: &Cli, output: &Output) -> Result<u8> {
    match &cli.command {
        Command::Init { dir } => init(&Place::new(dir), output),
        Command::Serve { store, listen } => {
            // The file is read only for what the command line leaves out.
            let listen = match listen {
                Some(listen) => Some(listen.clone()),
                None => Config::find(cli.global.config.as_deref())?.listen,
            };
            serve::run(&place(cli, store)?, listen.as_deref(), output)
        }
        Command::Embedded { store, read_only } => {
            Ok(embedded::run(&place(cli, store)?, *read_only))
        }
        Command::Status(store) => status(&place(cli, store)?, output),
        Command::Agent(AgentCommand::List(store)) => list(&place(cli, store)?, output),
        Command::Agent(AgentCommand::Token(args)) => token(&place(cli, &args.store)?, args, output),
        Command::Policy(command) => policy::run(&place(cli, command.store())?, command, output),
        Command::Forget(args) => forget::run(&place(cli, &args.store)?, args, output),
        Command::Protect(args) => {
            forget::protect(&place(cli, &args.store)?, args, Verb::Protect, output)
        }
        Command::Unprotect(args) => {
            forget::protect(&place(cli, &args.store)?, args, Verb::Unprotect, output)
        }
        Command::Hold(args) => hold::run(&place(cli, &args.store)?, args, output),
        Command::Check(args) => check::run(&place(cli, &args.store)?, args, output),
        Command::Gc(args) => gc::run(&place(cli, &args.store)?, args, output),
        Command::Salvage { store, to } => {
            check::salvage(&place(cli, store)?, &Place::new(to), output)
        }
        Command::RebuildIndex(store) => rebuild(&place(cli, store)?, output),
        Command::Completions { shell } => housekeeping::completions(*shell, Cli::command()),
        Command::Man { dir } => housekeeping::man(dir, Cli::command(), output),
    }
}

fn place(cli: &Cli, store: &StoreArg) -> Result<Place> {
    let named = match &store.store {
        Some(dir) => Some(dir.clone()),
        None => Config::find(cli.global.config.as_deref())?.store,
    };
    let dir = named.ok_or_else(|| VaultError::Usage {
        what: "no store is named".to_owned(),
        hint: "give --store DIR, or write `store = \"DIR\"` into /etc/umbra/vault.toml".to_owned(),
    })?;
    Ok(Place::new(&dir))
}

/// Asks the vault that serves the store, or the store itself where none does.
fn ask(place: &Place, mode: Mode, request: &Request) -> Result<Answer> {
    if let Some(mut remote) = Remote::find(place)? {
        return remote.ask(request);
    }
    let open = place.open(mode)?;
    let answer = admin::answer(&open.store, place, None, &|| false, request);
    let closed = open.close();
    let answer = answer?;
    closed?;
    Ok(answer)
}

fn unexpected() -> VaultError {
    VaultError::Internal("the running vault answered something else than was asked")
}

fn init(place: &Place, output: &Output) -> Result<u8> {
    let (store, identity) = place.init()?;
    let dir = place.dir().display();
    output.text(&format!("made the store {store} in {dir}"))?;
    output
        .text("it is NOT encrypted: whoever can read the directory can read every backup in it")?;
    output.text(&format!("next: umbra-vault serve --store {dir}"))?;
    output.summary(json!({
        "store": store.to_string(),
        "path": place.dir(),
        "fingerprint": identity.fingerprint().to_string(),
        "encrypted": false,
    }))?;
    Ok(0)
}

fn status(place: &Place, output: &Output) -> Result<u8> {
    let Answer::Status(status) = ask(place, Mode::ReadOnly, &Request::Status)? else {
        return Err(unexpected());
    };
    output.status(&status)?;
    Ok(if !status.damage.is_empty() {
        4
    } else if status.machines.iter().any(|machine| machine.stale) {
        3
    } else {
        0
    })
}

fn list(place: &Place, output: &Output) -> Result<u8> {
    let Answer::Agents { machines } = ask(place, Mode::ReadOnly, &Request::Agents)? else {
        return Err(unexpected());
    };
    output.machines(&machines)?;
    output.summary(json!({ "machines": machines.len() }))?;
    Ok(0)
}

fn token(place: &Place, args: &TokenArgs, output: &Output) -> Result<u8> {
    let new = NewToken {
        role: args.role.clone(),
        machine: args.machine.clone(),
        name: args.name.clone(),
        uses: args.uses,
        ttl_seconds: args.ttl,
        addresses: args.address.clone(),
    };
    let Answer::Token(made) = ask(place, Mode::ReadWrite, &Request::Token(new))? else {
        return Err(unexpected());
    };
    output.text(&made.token)?;
    output.summary(json!({ "token": made.token, "expires": made.expires }))?;
    Ok(0)
}

fn rebuild(place: &Place, output: &Output) -> Result<u8> {
    let answer = ask(place, Mode::ReadWrite, &Request::RebuildIndex)?;
    let Answer::Rebuilt { packs, objects, incomplete } = answer else {
        return Err(unexpected());
    };
    output.text(&format!("read {packs} packs and indexed {objects} objects"))?;
    if incomplete > 0 {
        output.text(&format!("{incomplete} nodes lack something below them"))?;
    }
    output.summary(json!({ "packs": packs, "objects": objects, "incomplete": incomplete }))?;
    Ok(if incomplete > 0 { 4 } else { 0 })
}

/// Where agents may find a vault that names no address: its own, or this machine's.
pub(crate) fn addresses(listen: Option<SocketAddr>) -> Vec<String> {
    let port = listen.map_or(DEFAULT_PORT, |listen| listen.port());
    if let Some(listen) = listen.filter(|listen| !listen.ip().is_unspecified()) {
        return vec![listen.to_string()];
    }
    let mut found = Vec::new();
    // Nothing is sent: the kernel only says which of its addresses it would send from.
    let outward = UdpSocket::bind(("0.0.0.0", 0)).and_then(|socket| {
        socket.connect(("192.0.2.1", 9))?;
        socket.local_addr()
    });
    if let Ok(address) = outward {
        found.push(SocketAddr::new(address.ip(), port).to_string());
    }
    if let Ok(name) = rustix::system::uname().nodename().to_str() {
        found.push(format!("{name}:{port}"));
    }
    found
}

/// Reads a duration.
fn seconds(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "" | "s" => 1_u64,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err("use s, m, h or d".to_owned()),
    };
    let number: u64 = digits.parse().map_err(|_| "not a number".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "too long".to_owned())
}

/// Reads a number of bytes a second.
fn rate(text: &str) -> Result<NonZeroU64, String> {
    let wrong = || "use a number of bytes above 0, such as 500K, 50M or 1G".to_owned();
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "" => 1_u64,
        "K" | "k" => 1 << 10,
        "M" => 1 << 20,
        "G" => 1 << 30,
        _ => return Err(wrong()),
    };
    let number: u64 = digits.parse().map_err(|_| wrong())?;
    number.checked_mul(unit).and_then(NonZeroU64::new).ok_or_else(wrong)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn rates() {
        assert_eq!(rate("50M").map(|rate| rate.get()), Ok(50 << 20));
        assert_eq!(rate("7").map(|rate| rate.get()), Ok(7));
        assert_eq!(rate("5").map(|rate| rate.get()), Ok(5));
        assert_eq!(rate("2K").map(|rate| rate.get()), Ok(2048));
        assert_eq!(rate("10M").map(|rate| rate.get()), Ok(10 << 20));
        assert!(rate("99999999999G").is_err());
        for bad in ["", "0", "0M", "-1", "1T", "M", "1.5M", "999999999999G"] {
            assert!(rate(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn durations() {
        assert_eq!(seconds("90"), Ok(90));
        assert_eq!(seconds("90s"), Ok(90));
        assert_eq!(seconds("15m"), Ok(900));
        assert_eq!(seconds("2h"), Ok(7200));
        assert_eq!(seconds("1d"), Ok(86_400));
        assert!(seconds("1w").is_err() && seconds("").is_err() && seconds("-1").is_err());
        assert!(seconds("99999999999999999999").is_err());
        assert!(seconds("999999999999999999d").is_err());
    }

    #[test]
    fn a_vault_is_found_where_it_listens() {
        let listen: SocketAddr = "127.0.0.1:99".parse().unwrap();
        assert_eq!(addresses(Some(listen)), ["127.0.0.1:99"]);
        let all: SocketAddr = "0.0.0.0:98".parse().unwrap();
        let found = addresses(Some(all));
        assert!(!found.is_empty() && found.iter().all(|address| address.ends_with(":98")));
        assert!(found.iter().all(|address| !address.starts_with("0.0.0.0")));
    }
}
