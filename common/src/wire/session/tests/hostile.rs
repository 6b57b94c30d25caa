//! Peers that say whatever they like, and words that come late.

use super::*;
use crate::wire::object::Codec;

fn chunk(number: u8) -> Arc<Object> {
    Arc::new(Object::pack(Kind::Chunk, vec![], vec![number; 40], 1).unwrap())
}

fn reference(number: u64) -> Reference {
    let kind = if number.is_multiple_of(2) { Kind::Chunk } else { Kind::MapPage };
    Reference { kind, id: ObjectId([(number % 5) as u8; 32]) }
}

fn refusal(code: RefusalCode) -> Refusal {
    Refusal { code, text: "no".into() }
}

fn begin(base: Option<ObjectId>) -> Begin {
    Begin { disk: "d".into(), nonce: [0; 16], base, resume: false, run: [0; 16] }
}

/// Anything that a vault can say.
fn to_agent(random: &mut Random) -> ToAgent {
    let small = random.below(6);
    match random.below(11) {
        0 => ToAgent::Welcome(Welcome {
            version: small as u16,
            store: [0; 16],
            machine: "m".into(),
            limits: facts().limits,
            software: "t".into(),
        }),
        1 => ToAgent::Refused(refusal(RefusalCode::Busy)),
        2 | 3 => {
            let base = [BaseState::None, BaseState::Pinned, BaseState::Gone];
            ToAgent::Begun(Begun { base: base[random.below(3) as usize], latest: None })
        }
        4 => ToAgent::Known(Known::new(small, &vec![true; random.below(5) as usize])),
        5 | 6 => {
            let number = |random: &mut Random| match random.below(3) {
                0 => random.next(),
                _ => random.below(8),
            };
            ToAgent::Ack { ranges: (0..random.below(7)).map(|_| number(random)).collect() }
        }
        7 => ToAgent::Missing { sequence: small, references: vec![reference(small); 3] },
        8 => ToAgent::Bad { sequence: small, reason: "bad".into() },
        9 => ToAgent::Committed(Committed { receipt: vec![1] }),
        _ => ToAgent::CommitMissing { references: vec![reference(small)] },
    }
}

/// Anything that an agent can say.
fn to_vault(random: &mut Random) -> ToVault {
    let small = random.below(6);
    match random.below(8) {
        0 => hello(0, small as u16, Some("m").filter(|_| small > 1)),
        1 => ToVault::Enroll(Enroll {
            oldest: 0,
            newest: 9,
            secret: [0; 16],
            machine: "m".into(),
            software: "t".into(),
        }),
        2 | 3 => ToVault::Begin(begin(None)),
        4 => {
            let count = if small == 0 { 5_000 } else { small as usize };
            ToVault::Ask(Ask { number: random.next(), references: vec![reference(small); count] })
        }
        5 => ToVault::Flush { upto: if small == 0 { random.next() } else { small } },
        6 => ToVault::Commit(Commit {
            manifest: ObjectId([0; 32]),
            labels: Vec::new(),
            tags: Vec::new(),
        }),
        _ => ToVault::End,
    }
}

fn object(random: &mut Random) -> Arc<Object> {
    let refs = (0..random.below(4)).map(|_| reference(random.next())).collect();
    Arc::new(Object {
        reference: reference(random.next()),
        refs,
        codec: Codec::None,
        plain_len: 3,
        body: vec![1, 2, 3],
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..Default::default() })]

    /// Whatever a vault says, the agent goes on or names a violation; what it keeps is bounded by
    /// what it was given.
    #[test]
    fn a_vault_may_say_anything(seed in any::<u64>()) {
        let mut random = Random(seed | 1);
        let mut agent = AgentSession::new(None, "t".into(), 1_000);
        let mut given = 0;
        for _ in 0..300 {
            match random.below(12) {
                0 => agent.connected(),
                1 if random.below(4) == 0 => agent.disconnected(),
                2 => {
                    let base = Some(ObjectId([1; 32])).filter(|_| seed % 2 == 0);
                    let _ = agent.begin(begin(base));
                }
                3 if random.below(8) == 0 => {
                    agent.end();
                    given = 0;
                }
                4 => {
                    let asked = vec![reference(random.next()); random.below(4) as usize];
                    let _ = agent.ask(asked);
                }
                5 => {
                    let object = object(&mut random);
                    let weight = object.weight();
                    if agent.has_room() && agent.send(object).is_ok() {
                        given += weight;
                    }
                }
                6 => agent.hurry(random.below(2) == 0),
                7 => while agent.poll_object().is_some() {},
                8 => while agent.poll_control().is_some() {},
                _ => if agent.handle(to_agent(&mut random)).is_err() {
                    // The driver closes the connection.
                    agent.disconnected();
                    prop_assert!(agent.poll_control().is_none());
                },
            }
            while agent.poll_event().is_some() {}
            prop_assert!(agent.unacked_bytes() <= given);
            prop_assert!(agent.unacked_bytes() <= 1_000 + 300);
        }
    }

    /// Whatever an agent says, nothing is done for it that is not allowed at that point, and what
    /// waits for it grows by one message for each of its own at most.
    #[test]
    fn an_agent_may_say_anything(seed in any::<u64>()) {
        let mut random = Random(seed | 1);
        let mut vault = VaultSession::new(facts(), machine());
        let mut arrivals = Vec::new();
        for heard in 1..300 {
            match random.below(6) {
                0 => {
                    let arrived = vault.arrived(random.below(5) * random.below(1 << 40));
                    prop_assert!(arrived.is_err() || vault.is_open());
                    arrivals.extend(arrived);
                }
                1 => if let Some(arrival) = arrivals.pop() {
                    let action = vault.taken(arrival);
                    prop_assert!(matches!(action, None | Some(VaultAction::Flush)));
                },
                2 => vault.durable(random.below(3), 0..=random.below(9)),
                _ => match vault.handle(to_vault(&mut random)) {
                    Err(violation) => vault.refuse(violation.into()),
                    Ok(Some(VaultAction::Begin(_))) => {
                        vault.begun(Begun { base: BaseState::None, latest: None });
                    }
                    Ok(Some(VaultAction::Ask(ask))) => {
                        prop_assert!(ask.references.len() <= 4096);
                        vault.known(ask.number, &vec![true; ask.references.len()]);
                    }
                    Ok(Some(VaultAction::Commit(_))) => vault.committed(vec![1]),
                    Ok(Some(VaultAction::Enroll(_))) => vault.refuse(refusal(RefusalCode::Failed)),
                    Ok(_) => {}
                },
            }
            prop_assert!(vault.waiting() <= heard);
            if random.below(9) == 0 {
                while vault.poll_control().is_some() {}
            }
        }
    }
}

#[test]
fn a_receipt_comes_when_it_was_asked_for() {
    let mut agent = running_agent(None);
    let receipt = || ToAgent::Committed(Committed { receipt: vec![1] });
    assert!(agent.handle(receipt()).is_err(), "nobody asked");
    let commit = Commit { manifest: ObjectId([0; 32]), labels: Vec::new(), tags: Vec::new() };
    agent.send(chunk(1)).unwrap();
    agent.commit(commit).unwrap();
    while agent.poll_event().is_some() {}
    assert!(agent.handle(receipt()).is_err(), "not everything has even been sent");
    assert_eq!(agent.poll_event(), None);
    let (sequence, _) = agent.poll_object().unwrap();
    agent.handle(ToAgent::Ack { ranges: vec![sequence, sequence] }).unwrap();
    assert!(matches!(agent.poll_control(), Some(ToVault::Commit(_))));
    agent.handle(receipt()).unwrap();
    assert_eq!(agent.poll_event(), Some(AgentEvent::Committed { receipt: vec![1] }));
    assert!(agent.handle(receipt()).is_err(), "once is enough");
}

#[test]
fn a_backup_given_up_before_its_beginning_was_answered_costs_the_connection() {
    let mut agent = AgentSession::new(None, "t".into(), 1_000);
    agent.connected();
    let welcome = Welcome {
        version: 1,
        store: [0; 16],
        machine: "m".into(),
        limits: facts().limits,
        software: "t".into(),
    };
    agent.handle(ToAgent::Welcome(welcome)).unwrap();
    agent.begin(begin(None)).unwrap();
    // Else the answer would be taken for that to the next Begin.
    assert!(!agent.end());
}

fn running_vault() -> VaultSession {
    let mut vault = VaultSession::new(facts(), machine());
    vault.handle(hello(1, 1, None)).unwrap();
    begin_at(&mut vault);
    vault
}

fn begin_at(vault: &mut VaultSession) {
    assert!(vault.handle(ToVault::Begin(begin(None))).unwrap().is_some());
    vault.begun(Begun { base: BaseState::None, latest: None });
    while vault.poll_control().is_some() {}
}

#[test]
fn an_object_that_is_durable_before_it_counts_as_taken_belongs_to_its_own_backup() {
    let mut vault = running_vault();
    let late = vault.arrived(0).unwrap();
    // The store is quick and the lane's task is slow: the agent hears, commits and begins again.
    vault.durable(vault.round(), 0..=0);
    assert_eq!(vault.poll_control(), Some(ToAgent::Ack { ranges: vec![0, 0] }));
    let first = vault.round();
    vault.handle(ToVault::End).unwrap();
    begin_at(&mut vault);
    assert_eq!(vault.handle(ToVault::Flush { upto: 1 }).unwrap(), None);
    assert_eq!(vault.taken(late), None, "another object of that number is meant");
    let arrival = vault.arrived(0).unwrap();
    assert!(vault.arrived(0).is_err(), "used twice");
    vault.durable(first, 0..=0);
    assert_eq!(vault.poll_control(), None, "an acknowledgement of the earlier backup");
    assert_eq!(vault.taken(arrival), Some(VaultAction::Flush));
}
