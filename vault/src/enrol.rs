//! Machines and the tokens that let them in.

use crate::clock::{now, random};
use crate::error::{Result, VaultError, refusal};
use serde::{Deserialize, Serialize};
use umbra_common::snapshot::is_name;
use umbra_common::wire::{self, Enroll, Enrolled, Fingerprint, Refusal, RefusalCode};
use umbra_store::{Digest, Entry, LogState, Machine, MachineId, Role, Store, Timestamp, Token};

/// What a new token shall be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NewToken {
    /// What a machine that enrols with it may do.
    pub role: String,
    /// The machine that it is for; any where it names none.
    pub machine: Option<String>,
    /// A word for the record.
    pub name: Option<String>,
    /// How many machines may use it.
    pub uses: u32,
    /// For how long, in seconds.
    pub ttl_seconds: u64,
    /// Where agents shall look for the vault, `HOST:PORT`.
    pub addresses: Vec<String>,
}

/// A token as it is handed out, once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TokenMade {
    /// The token: address, fingerprint and secret.
    pub token: String,
    /// Until when, RFC 3339.
    pub expires: String,
}

/// Reads the name of a role.
///
/// # Errors
/// [`VaultError::Usage`].
pub(crate) fn role(name: &str) -> Result<Role> {
    Role::ALL.into_iter().find(|role| role_name(*role) == name).ok_or_else(|| VaultError::Usage {
        what: format!("{name:?} is no role"),
        hint: "use agent, imager, restore, operator or admin".to_owned(),
    })
}

/// Names a role as the command line does.
pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Agent => "agent",
        Role::Imager => "imager",
        Role::Restore => "restore",
        Role::Operator => "operator",
        Role::Admin => "admin",
        _ => "unknown",
    }
}

/// Makes a token and notes it in the LOG; the secret itself is kept nowhere.
///
/// # Errors
/// [`VaultError::Usage`] for a bad name, role or number, [`VaultError::Running`] with the store's
/// words.
pub fn make_token(store: &Store, vault: Fingerprint, new: &NewToken) -> Result<TokenMade> {
    let role = role(&new.role)?;
    if let Some(machine) = new.machine.as_ref().filter(|name| !is_name(name)) {
        return Err(VaultError::Usage {
            what: format!("{machine:?} is no name for a machine"),
            hint: "use 1 to 64 letters, digits, dots, dashes and underscores".to_owned(),
        });
    }
    if new.uses == 0 || new.ttl_seconds == 0 {
        return Err(VaultError::Usage {
            what: "a token that can never be used".to_owned(),
            hint: "give --uses and --ttl of at least 1".to_owned(),
        });
    }
    let secret: [u8; 16] = random()?;
    let time = now();
    let nanos = i64::try_from(u128::from(new.ttl_seconds).saturating_mul(1_000_000_000));
    let expires = Timestamp(time.0.saturating_add(nanos.unwrap_or(i64::MAX)));
    let token = Token {
        id: random()?,
        secret_hash: hash_of(&secret),
        role,
        machine_name: new.machine.clone(),
        uses: new.uses,
        expires,
    };
    let word = new.name.as_deref().map_or_else(String::new, |name| format!(" ({name})"));
    let note = format!("a token for the role {} was issued{word}", role_name(role));
    store
        .log()
        .update(time, |_| {
            let audit = Entry::Audit { machine: None, text: note };
            Ok::<_, umbra_store::Error>((vec![Entry::TokenIssued(token), audit], ()))
        })
        .map_err(|error| running(&error))?;
    let token = wire::Token { addresses: new.addresses.clone(), vault, secret };
    let text = token.to_text().map_err(|_| VaultError::Usage {
        what: "the addresses do not fit into a token".to_owned(),
        hint: "give fewer or shorter ones with --address".to_owned(),
    })?;
    Ok(TokenMade { token: text, expires: crate::rfc3339(expires) })
}

/// Says to an administrator why the store would not.
pub(crate) fn running(error: &umbra_store::Error) -> VaultError {
    let refusal = refusal(error);
    let exit_code = refusal.code.exit_code();
    VaultError::Running { message: refusal.text, hint: None, exit_code }
}

/// Why an enrolment fails.
enum Failure {
    Store(umbra_store::Error),
    Refused(Refusal),
}

impl From<umbra_store::Error> for Failure {
    fn from(error: umbra_store::Error) -> Self {
        Self::Store(error)
    }
}

/// Makes the key `key` known as the machine of a token.
///
/// # Errors
/// The refusal to answer with.
pub fn enroll(store: &Store, key: Fingerprint, enroll: &Enroll) -> Result<Enrolled, Refusal> {
    let fresh: [u8; 16] =
        random().map_err(|error| Refusal { code: RefusalCode::Failed, text: error.to_string() })?;
    let time = now();
    // Strangers with no token shall not cost more than a look at the tokens.
    let known = match store.log().with_state(|state| find_token(state, enroll).is_some()) {
        true => known_machines(store),
        false => Vec::new(),
    };
    let enrolled = store.log().update(time, |state| {
        let attempt = Attempt { key, enroll, time, fresh: MachineId(fresh) };
        let (machine, token) = decide(state, &known, &attempt)?;
        let answer = Enrolled {
            machine_id: machine.id.0,
            machine: machine.name.clone(),
            store: store.id().0,
        };
        let entries = token.map(|token| {
            let used = Entry::TokenUsed { token, machine: machine.id };
            vec![used, Entry::MachineEnrolled(machine)]
        });
        Ok((entries.unwrap_or_default(), answer))
    });
    enrolled.map_err(|failure| match failure {
        Failure::Store(error) => refusal(&error),
        Failure::Refused(refusal) => refusal,
    })
}

/// Who wants to enrol, with what, and when.
struct Attempt<'a> {
    key: Fingerprint,
    enroll: &'a Enroll,
    time: Timestamp,
    /// The id that a new machine gets.
    fresh: MachineId,
}

/// Finds the token of this secret, used up or not. Hashes are compared, and in a time that does not
/// depend on them.
fn find_token<'a>(state: &'a LogState, enroll: &Enroll) -> Option<&'a Token> {
    let hash = blake3::hash(&enroll.secret);
    state.tokens.values().find(|token| blake3::Hash::from_bytes(token.secret_hash.0) == hash)
}

/// Finds the token and makes the machine of it. Returns the token's id where it is used by this.
fn decide(
    state: &LogState,
    known: &[(String, MachineId)],
    attempt: &Attempt<'_>,
) -> Result<(Machine, Option<[u8; 16]>), Failure> {
    let refuse =
        |text: String| Failure::Refused(Refusal { code: RefusalCode::NotAuthorised, text });
    let &Attempt { key, enroll, time, fresh } = attempt;
    let holder = state.machine_by_key(key);
    let token = find_token(state, enroll);
    if let (Some(token), Some(holder)) = (token, holder)
        && *token.machine_name.as_ref().unwrap_or(&enroll.machine) == holder.name
        && token.role == holder.role
        && (token.uses == 0 || token.expires < time)
    {
        // The answer was lost, and the agent asks again: it is what the token made it.
        return Ok((holder.clone(), None));
    }
    // One answer for all three, so that nothing can be learnt about tokens by trying.
    let token = token.filter(|token| token.uses > 0 && token.expires >= time).ok_or_else(|| {
        refuse(
            "the token is unknown, used up or expired; ask for a new one (`umbra-vault agent \
             token`)"
                .to_owned(),
        )
    })?;
    let name = token.machine_name.clone().unwrap_or_else(|| enroll.machine.clone());
    if !is_name(&name) {
        return Err(refuse(format!(
            "{name:?} is no name for a machine (1 to 64 letters, digits, dots, dashes and \
             underscores); give one with --machine"
        )));
    }
    if let Some(holder) = holder.filter(|holder| holder.name != name) {
        // One key never speaks for two machines.
        return Err(refuse(format!(
            "this key is enrolled as {}; to enrol as {name}, use a configuration with another key \
             (--config)",
            holder.name
        )));
    }
    let present = state.machine_by_name(&name);
    // A machine that was here before, enrolled or through an embedded vault, keeps its snapshots.
    let before = known.iter().rev().find(|(other, _)| *other == name).map(|(_, id)| *id);
    if token.machine_name.is_none() {
        let to_be = format!("use a token made with --machine {name}");
        if present.is_some_and(|present| present.key != key) {
            return Err(refuse(format!(
                "another key is enrolled as {name}; to replace it, {to_be}"
            )));
        }
        // Whoever has a token for any machine must not get at the snapshots of one by its name.
        if present.is_none() && before.is_some() {
            return Err(refuse(format!(
                "the vault has snapshots of {name} already; to go on with them, {to_be}"
            )));
        }
    }
    let id = present.map(|machine| machine.id).or(before).unwrap_or(fresh);
    Ok((Machine { id, name, key, role: token.role }, Some(token.id)))
}

/// Names and ids of the machines of all receipts, oldest first: a machine whose snapshots are
/// forgotten is the same when they are back.
fn known_machines(store: &Store) -> Vec<(String, MachineId)> {
    let receipts = store.all_receipts();
    receipts.iter().map(|receipt| (receipt.machine_name.clone(), receipt.machine)).collect()
}

/// Returns the id of a machine that speaks through an embedded vault: the enrolled one of that
/// name, else the one that the newest snapshot of that name has, else one that follows from the
/// name, so that it is the same each time.
pub(crate) fn id_of_name(store: &Store, name: &str) -> MachineId {
    let enrolled = store.log().with_state(|state| state.machine_by_name(name).map(|m| m.id));
    let before = || known_machines(store).into_iter().rev().find(|(n, _)| n == name);
    enrolled.or_else(|| before().map(|(_, id)| id)).unwrap_or_else(|| {
        let mut bytes = store.id().0.to_vec();
        bytes.extend_from_slice(name.as_bytes());
        let hash = blake3::derive_key("umbra 1 embedded machine id", &bytes);
        MachineId(hash.first_chunk().copied().unwrap_or_default())
    })
}

fn hash_of(secret: &[u8; 16]) -> Digest {
    Digest(*blake3::hash(secret).as_bytes())
}
