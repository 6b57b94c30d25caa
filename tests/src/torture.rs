//! Crashes of the real vault: eight writers, one who kills, and the proof that nothing acknowledged was lost.
//!
//! A [`Campaign`] has one store. Each round, writers back made disks up ([`writer`]) and note what the vault acknowledged
//! ([`ledger`]); then the vault dies, or something under it fails ([`trouble`]); then it is started again without any
//! trouble, and everything that was acknowledged is read back over the wire and compared ([`proof`]).

pub mod faults;
pub mod ledger;
pub mod made;
pub mod proof;
pub mod trouble;
pub mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use umbra_common::wire::Token;
use umbra_net::{Client, Connect, Identity};

use self::ledger::Ledger;
use self::proof::{Depth, prove};
use self::trouble::Trouble;
use self::writer::{Lines, Pool, Round};
use crate::images::Noise;
use crate::json::Answer;
use crate::programs::{Home, Programs};
use crate::vault::{Started, Vault, free_udp_port};

/// Writers of a campaign, each a machine of its own.
pub const WRITERS: u64 = 8;

/// How long a vault may take to end in order.
const ENDING: Duration = Duration::from_secs(20);

/// What was done to vaults, and what they were asked afterwards.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Times that a vault died, with writers at work.
    pub kills: u64,
    /// Of these, at named points.
    pub at_points: BTreeMap<String, u64>,
    /// Calls of the system that were made to fail.
    pub faults: u64,
    /// Acknowledged objects read back and compared.
    pub objects: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Snapshots read back whole.
    pub snapshots: u64,
    /// Refusals that writers got.
    pub refused: u64,
}

impl Figures {
    /// Adds those of another part.
    pub fn add(&mut self, other: &Self) {
        self.kills += other.kills;
        self.faults += other.faults;
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.snapshots += other.snapshots;
        self.refused += other.refused;
        for (point, count) in &other.at_points {
            *self.at_points.entry(point.clone()).or_default() += count;
        }
    }
}

/// One of the writers.
struct Writer {
    identity: Identity,
    ledger: Ledger,
    noise: Noise,
}

/// A store that vaults die on.
pub struct Campaign {
    home: Home,
    store: PathBuf,
    port: u16,
    token: Token,
    writers: Vec<Writer>,
    noise: Noise,
    vault: Option<Vault>,
    rounds: u64,
    /// What happened so far.
    pub figures: Figures,
    /// What the writers were last refused with.
    pub words: String,
}

impl Campaign {
    /// Makes a store and enrols the writers.
    ///
    /// # Errors
    /// When that fails.
    pub fn new(programs: &Programs, seed: u64) -> Result<Self> {
        let home = Home::new(programs)?;
        let store = home.path("store");
        Self::in_store(home, store, seed)
    }

    /// The same with the store in another place, where there is none yet.
    ///
    /// # Errors
    /// When that fails.
    pub fn in_store(home: Home, store: PathBuf, seed: u64) -> Result<Self> {
        Answer::of(home.vault().arg("init").arg(&store))?.expect_code(0)?;
        let vault = Vault::start(&home, &store, free_udp_port()?)?;
        let mut command = home.vault();
        command.args(["agent", "token", "--uses", &WRITERS.to_string(), "--store"]).arg(&store);
        let told = Answer::of(&mut command)?.expect_code(0)?.stdout;
        let token = Token::from_text(&String::from_utf8(told)?)?;
        let mut noise = Noise::new(seed);
        let mut writers = Vec::new();
        for number in 0..WRITERS {
            let identity = Identity::generate()?;
            Client::enroll(&token, &identity, &format!("m{number}"), "umbra-torture")?;
            let noise = Noise::new(noise.next_number());
            writers.push(Writer { identity, ledger: Ledger::default(), noise });
        }
        let port = vault.port;
        let figures = Figures::default();
        let (vault, words) = (Some(vault), String::new());
        Ok(Self { home, store, port, token, writers, noise, vault, rounds: 0, figures, words })
    }

    /// The home of its vault.
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// Where the store is.
    pub fn store(&self) -> &std::path::Path {
        &self.store
    }

    /// Leaves the store where it is, for whoever looks for the fault.
    pub fn keep(self) -> PathBuf {
        drop(self.vault);
        self.home.keep();
        self.store
    }

    /// Random numbers of the campaign.
    pub fn noise(&mut self) -> &mut Noise {
        &mut self.noise
    }

    fn connect(&self, writer: &Writer) -> Connect {
        let addresses = self.token.addresses.clone();
        Connect::new(addresses, self.token.vault, writer.identity.clone())
    }

    /// The vault that serves, started without any trouble where none does.
    ///
    /// # Errors
    /// When it does not serve.
    pub fn vault(&mut self) -> Result<&mut Vault> {
        if self.vault.is_none() {
            let vault = Vault::start(&self.home, &self.store, self.port);
            self.vault = Some(vault.context("LOST: the store cannot be opened")?);
        }
        self.vault.as_mut().context("it was just started")
    }

    /// One round: writers at work, the trouble, and everything proven afterwards.
    ///
    /// # Errors
    /// When something was lost or is wrong.
    pub fn round(&mut self, trouble: &Trouble) -> Result<()> {
        self.work(trouble)?;
        self.prove(Depth::New)
    }

    /// Writers at work until the trouble is over; leaves no vault.
    ///
    /// # Errors
    /// When a writer sees that something was lost, or the vault hangs.
    pub fn work(&mut self, trouble: &Trouble) -> Result<()> {
        self.rounds += 1;
        if trouble.needs_own_vault()
            && let Some(vault) = self.vault.take()
        {
            vault.kill()?;
        }
        let vault = match self.vault.take() {
            Some(vault) => vault,
            None => {
                let store = &self.store;
                let mut change = |command: &mut std::process::Command| trouble.arm(command, store);
                match Vault::start_with(&self.home, &self.store, self.port, &mut change)? {
                    Started::Serving(vault) => vault,
                    Started::Ended { status, said } => {
                        return trouble.ended(status, &said, &self.store, &mut self.figures);
                    }
                }
            }
        };
        let lines = Lines::default();
        let seamless = trouble.is_kill() && self.noise.below(2) == 0;
        let shared_from = self.rounds * 48;
        let mut connects = Vec::new();
        for writer in &self.writers {
            let mut connect = self.connect(writer);
            connect.connect_for = Duration::from_millis(1500);
            if !seamless {
                connect.retry_for = Duration::ZERO;
            }
            connects.push(connect);
        }
        let (home, store, port) = (&self.home, &self.store, self.port);
        let writers = &mut self.writers;
        let figures = &mut self.figures;
        let (rounds, next) = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for ((number, writer), connect) in (0..).zip(writers).zip(&connects) {
                let pool = Pool { writer: number, shared_from };
                let (ledger, noise, lines) = (&mut writer.ledger, &mut writer.noise, &lines);
                threads.push(scope.spawn(move || writer::run(connect, lines, pool, ledger, noise)));
            }
            let happened = trouble.happen(vault, store, figures);
            // Those who outlive the vault go on over the next one, and send nothing that was acknowledged again.
            let next = match &happened {
                Ok(()) if seamless => Some(Vault::start(home, store, port)),
                _ => None,
            };
            lines.end();
            lines.cut();
            let rounds: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
            happened.map(|()| (rounds, next))
        })?;
        self.vault = next.transpose().context("LOST: the store cannot be opened")?;
        for round in rounds {
            let Ok(round) = round else { bail!("a writer panicked") };
            let Round { no_space, refused, words } = round?;
            self.figures.refused += no_space + refused;
            if !words.is_empty() {
                self.words = words;
            }
        }
        Ok(())
    }

    /// Proves what every writer was told, at once.
    ///
    /// # Errors
    /// When something was lost or is wrong.
    pub fn prove(&mut self, depth: Depth) -> Result<()> {
        self.vault()?;
        let connects: Vec<Connect> = self.writers.iter().map(|one| self.connect(one)).collect();
        let writers = &mut self.writers;
        let proofs: Vec<_> = std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for ((number, writer), connect) in (0..).zip(writers).zip(&connects) {
                let (ledger, noise) = (&mut writer.ledger, &mut writer.noise);
                threads.push(scope.spawn(move || prove(connect, number, ledger, depth, noise)));
            }
            threads.into_iter().map(|thread| thread.join()).collect()
        });
        for proof in proofs {
            let Ok(proof) = proof else { bail!("a proof panicked") };
            self.figures.add(&proof?);
        }
        Ok(())
    }

    /// The last round: everything is proven, the vault ends in order, and its own check finds nothing.
    ///
    /// # Errors
    /// When something was lost or is wrong.
    pub fn finish(&mut self) -> Result<()> {
        self.prove(Depth::All)?;
        let Some(mut vault) = self.vault.take() else { return Ok(()) };
        vault.terminate()?;
        let ended = vault.ended_within(ENDING)?.context("HANGS: the vault does not end")?;
        ensure!(ended.success(), "the vault ends with {ended}");
        let mut check = self.home.vault();
        check.args(["--json", "check", "--read-data", "--store"]).arg(&self.store);
        Answer::of(&mut check)?.expect_code(0).context("DAMAGE: check finds something")?;
        let said = std::fs::read(self.home.path(&format!("vault-{}.log", self.port)))?;
        let said = String::from_utf8_lossy(&said);
        ensure!(!said.contains("panicked"), "PANIC: {said}");
        Ok(())
    }
}
