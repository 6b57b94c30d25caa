//! The program: processes, signals, sockets, exit codes.

use crate::inside::walk;
use crate::tree::{begin, commit, read_back, send, tree};
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::time::Duration;
use umbra_common::wire::{Fingerprint, Token};
use umbra_net::{Client, Connect, Identity};

fn program(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_umbra-vault"));
    command.env("XDG_RUNTIME_DIR", home).env("UMBRA_CONFIG", home.join("vault.toml"));
    command
}

fn run(home: &Path, arguments: &[&str]) -> (i32, Vec<Value>, String) {
    let Output { status, stdout, stderr } =
        program(home).args(arguments).arg("--json").output().unwrap();
    let lines = String::from_utf8(stdout).unwrap();
    let objects = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    (status.code().unwrap(), objects, String::from_utf8(stderr).unwrap())
}

/// A process that is killed with the test, whatever happens.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    first: Value,
}

impl Running {
    fn start(home: &Path, arguments: &[&str], input: Option<&str>) -> Self {
        let mut child = program(home)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        if let Some(input) = input {
            writeln!(stdin, "{input}").unwrap();
        }
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let first = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
        Self { child, stdin: Some(stdin), first }
    }

    fn serve(home: &Path, store: &str) -> Self {
        let arguments = ["serve", "--store", store, "--listen", "127.0.0.1:0", "--json"];
        Self::start(home, &arguments, None)
    }

    fn embedded(home: &Path, store: &str, key: &Identity, more: &[&str]) -> Self {
        let hello = format!("{{\"fingerprint\":\"{}\",\"machine\":\"m\"}}", key.fingerprint());
        let arguments = [&["embedded", "--store", store], more].concat();
        Self::start(home, &arguments, Some(&hello))
    }

    fn connect(&self, key: &Identity, machine: &str) -> Client {
        assert_eq!(self.first["type"], "ready", "{}", self.first);
        let address = self.first["address"].as_str().unwrap().to_owned();
        let vault = Fingerprint::from_hex(self.first["fingerprint"].as_str().unwrap()).unwrap();
        let mut options = Connect::new(vec![address], vault, key.clone());
        options.machine = Some(machine.into());
        Client::connect(options).unwrap()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Waits for the end, at most 20 s.
    fn code(&mut self) -> Option<i32> {
        for _ in 0..400 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("the vault does not end");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn home_with_store() -> (tempfile::TempDir, String) {
    let home = tempfile::tempdir().unwrap();
    let store = home.path().join("s").to_string_lossy().into_owned();
    let (code, objects, _) = run(home.path(), &["init", &store]);
    assert_eq!((code, &objects[0]["type"]), (0, &Value::from("summary")));
    (home, store)
}

#[test]
fn a_served_store_is_administered_backed_up_to_and_shared() {
    let (home, store) = home_with_store();
    let home = home.path();
    let mut vault = Running::serve(home, &store);
    assert_eq!(vault.first["status"], "ready");

    // A second vault is told who has the store and since when.
    let (code, objects, text) = run(home, &["serve", "--store", &store]);
    assert_eq!((code, &objects[0]["exit_code"]), (11, &Value::from(11)));
    let pid = vault.child.id().to_string();
    assert!(text.contains(&pid) && text.contains("since 20"), "{text}");

    // Commands talk to the running one.
    let (code, objects, _) = run(home, &["agent", "token", "--store", &store, "--machine", "web1"]);
    assert_eq!(code, 0);
    let token = Token::from_text(objects[0]["token"].as_str().unwrap()).unwrap();
    assert_eq!(token.addresses, [vault.first["address"].as_str().unwrap()]);
    let identity = Identity::generate().unwrap();
    Client::enroll(&token, &identity, "web1", "test").unwrap();
    let (code, objects, _) = run(home, &["status", "--store", &store]);
    assert_eq!(code, 3, "web1 has no snapshot");
    assert_eq!(objects[0]["machines"][0]["machine"], "web1");
    assert_eq!(objects[0]["pid"], vault.child.id());

    let client = Client::connect(Connect::new(token.addresses, token.vault, identity)).unwrap();
    let tree = tree(7, 5_000);
    let upload = client.upload(begin(1)).unwrap();
    send(&upload, &tree.objects);
    upload.commit(commit(&tree)).unwrap();
    drop(upload);
    let (code, objects, _) = run(home, &["status", "--store", &store]);
    assert_eq!((code, &objects[0]["snapshots"]), (0, &Value::from(1)));
    let (code, objects, _) = run(home, &["agent", "list", "--store", &store]);
    assert_eq!((code, &objects[0]["machine"]), (0, &Value::from("web1")));
    assert_eq!(objects[0]["snapshots"], 1);

    // The owner of the store reaches the vault that serves it, and only while his command runs.
    let key = Identity::generate().unwrap();
    let mut joined = Running::embedded(home, &store, &key, &[]);
    assert_eq!(joined.first["address"], vault.first["address"]);
    let owner = joined.connect(&key, "anybody");
    read_back(&owner, &tree);
    drop(owner);
    drop(joined.stdin.take());
    assert_eq!(joined.code(), Some(0));
    let address = vault.first["address"].as_str().unwrap().to_owned();
    let stranger = Connect::new(vec![address], token.vault, key);
    assert_eq!(Client::connect(stranger).unwrap_err().exit_code(), 12);

    let (code, _, text) = run(home, &["rebuild-index", "--store", &store]);
    assert_eq!(code, 0, "{text}");
    read_back(&client, &tree);
    vault.signal("-TERM");
    assert_eq!(vault.code(), Some(0));
    let (code, objects, _) = run(home, &["status", "--store", &store]);
    assert_eq!((code, &objects[0]["listen"]), (0, &Value::Null));
}

#[test]
fn a_vault_whose_rebuild_failed_ends_and_the_next_one_makes_it_good() {
    let (home, store) = home_with_store();
    let home = home.path();
    let key = Identity::generate().unwrap();
    let mut first = Running::embedded(home, &store, &key, &[]);
    let client = first.connect(&key, "m");
    let tree = tree(12, 5_000);
    let upload = client.upload(begin(1)).unwrap();
    send(&upload, &tree.objects);
    upload.commit(commit(&tree)).unwrap();
    drop((upload, client));
    drop(first.stdin.take());
    assert_eq!(first.code(), Some(0));

    let mut vault = Running::serve(home, &store);
    // A directory in place of each pack: reading it is an error of the system, whoever asks.
    let sealed = walk(&Path::new(&store).join("packs"));
    assert!(!sealed.is_empty());
    let aside = |pack: &Path| home.join(pack.file_name().unwrap());
    for pack in &sealed {
        std::fs::rename(pack, aside(pack)).unwrap();
        std::fs::create_dir(pack).unwrap();
    }
    let (code, _, text) = run(home, &["rebuild-index", "--store", &store]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("ends") && text.contains("serve"), "{text}");
    let start = std::time::Instant::now();
    assert_eq!(vault.code(), Some(1));
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());

    for pack in &sealed {
        std::fs::remove_dir(pack).unwrap();
        std::fs::rename(aside(pack), pack).unwrap();
    }
    let vault = Running::embedded(home, &store, &key, &[]);
    read_back(&vault.connect(&key, "m"), &tree);
}

#[test]
fn an_embedded_vault_lives_as_long_as_its_pipe() {
    let (home, store) = home_with_store();
    let home = home.path();
    let key = Identity::generate().unwrap();
    let mut first = Running::embedded(home, &store, &key, &[]);
    let client = first.connect(&key, "laptop");
    let tree = tree(8, 3_000);
    let upload = client.upload(begin(1)).unwrap();
    send(&upload, &tree.objects);
    upload.commit(commit(&tree)).unwrap();
    drop(upload);

    // Another writer is turned away; so is a stranger; Ctrl-C is left to the command.
    let mut second = Running::embedded(home, &store, &key, &[]);
    assert_eq!(second.code(), Some(11));
    assert_eq!((&second.first["type"], &second.first["exit_code"]), (&"error".into(), &11.into()));
    let stranger = Identity::generate().unwrap();
    let address = first.first["address"].as_str().unwrap().to_owned();
    let vault = Fingerprint::from_hex(first.first["fingerprint"].as_str().unwrap()).unwrap();
    let refused = Client::connect(Connect::new(vec![address], vault, stranger)).unwrap_err();
    assert_eq!(refused.exit_code(), 12);
    first.signal("-INT");
    read_back(&client, &tree);
    drop(client);
    drop(first.stdin.take());
    assert_eq!(first.code(), Some(0));

    // Readers, two at a time; they cannot write.
    let one = Running::embedded(home, &store, &key, &["--read-only"]);
    let two = Running::embedded(home, &store, &key, &["--read-only"]);
    for reader in [&one, &two] {
        let client = reader.connect(&key, "laptop");
        read_back(&client, &tree);
        let refused = client.upload(begin(2)).unwrap_err();
        assert!(refused.to_string().contains("read"), "{refused}");
    }
    // The machine that came through the pipe keeps its snapshots when it enrols, with a token that
    // is for it.
    drop((one, two));
    let (_, objects, _) = run(home, &["agent", "list", "--store", &store]);
    let id = objects[0]["id"].clone();
    assert_eq!((&objects[0]["machine"], &objects[0]["role"]), (&"laptop".into(), &Value::Null));
    let vault = Running::serve(home, &store);
    let (_, objects, _) = run(home, &["agent", "token", "--store", &store]);
    let anybodys = Token::from_text(objects[0]["token"].as_str().unwrap()).unwrap();
    let refused = Client::enroll(&anybodys, &key, "laptop", "test").unwrap_err();
    assert!(refused.to_string().contains("--machine laptop"), "{refused}");
    let for_it = ["agent", "token", "--store", &store, "--machine", "laptop"];
    let (_, objects, _) = run(home, &for_it);
    let token = Token::from_text(objects[0]["token"].as_str().unwrap()).unwrap();
    let enrolled = Client::enroll(&token, &key, "laptop", "test").unwrap();
    let hex: String = enrolled.machine_id.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(Value::from(hex), id);
    drop(vault);
}

#[test]
fn a_killed_vault_loses_nothing_that_it_acknowledged() {
    let (home, store) = home_with_store();
    let home = home.path();
    let key = Identity::generate().unwrap();
    let mut vault = Running::embedded(home, &store, &key, &[]);
    let client = vault.connect(&key, "m");
    let tree = tree(9, 40_000);
    let upload = client.upload(begin(1)).unwrap();
    let (first, rest) = tree.objects.split_at(150);
    send(&upload, first);
    upload.flush().unwrap();
    rest.iter().take(30).for_each(|object| upload.send(object.clone()).unwrap());
    vault.signal("-KILL");
    assert_eq!(vault.code(), None);
    drop((upload, client));

    let vault = Running::embedded(home, &store, &key, &[]);
    let client = vault.connect(&key, "m");
    let upload = client.upload(begin(1)).unwrap();
    assert_eq!(send(&upload, first), 0, "what was acknowledged is gone");
    send(&upload, rest);
    upload.commit(commit(&tree)).unwrap();
    drop(upload);
    read_back(&client, &tree);
}

#[test]
fn an_agent_goes_on_by_itself_after_its_vault_was_killed_and_started_again() {
    let (home, store) = home_with_store();
    let home = home.path();
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = socket.local_addr().unwrap().to_string();
    drop(socket);
    let serve = || {
        let arguments = ["serve", "--store", &store, "--listen", &listen, "--json"];
        Running::start(home, &arguments, None)
    };
    let mut vault = serve();
    let (_, objects, _) = run(home, &["agent", "token", "--store", &store]);
    let token = Token::from_text(objects[0]["token"].as_str().unwrap()).unwrap();
    let identity = Identity::generate().unwrap();
    Client::enroll(&token, &identity, "m", "test").unwrap();
    let client = Client::connect(Connect::new(token.addresses, token.vault, identity)).unwrap();
    let tree = tree(11, 20_000);
    let upload = client.upload(begin(1)).unwrap();
    let (first, rest) = tree.objects.split_at(150);
    first.iter().for_each(|object| upload.send(object.clone()).unwrap());
    vault.signal("-KILL");
    vault.code();
    let vault = serve();
    let start = std::time::Instant::now();
    rest.iter().for_each(|object| upload.send(object.clone()).unwrap());
    upload.commit(commit(&tree)).unwrap();
    // The new process tells at once that it does not know the connection; silence would be
    // noticed after 20 s.
    let taken = start.elapsed();
    assert!(taken < Duration::from_secs(10), "{taken:?}");
    drop(upload);
    read_back(&client, &tree);
    drop(vault);
}

#[test]
fn what_is_no_store_is_said_so() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let nowhere = home.join("nowhere").to_string_lossy().into_owned();
    for command in ["status", "serve", "rebuild-index"] {
        let (code, objects, text) = run(home, &[command, "--store", &nowhere]);
        assert_eq!((code, &objects[0]["type"]), (10, &Value::from("error")), "{command}");
        assert!(text.contains(&nowhere) && text.contains("umbra-vault init"), "{text}");
    }
    let key = Identity::generate().unwrap();
    let mut embedded = Running::embedded(home, &nowhere, &key, &[]);
    assert_eq!(embedded.code(), Some(10));
    assert_eq!(embedded.first["exit_code"], 10);
    let (code, _, text) = run(home, &["status"]);
    assert_eq!(code, 2);
    assert!(text.contains("--store"), "{text}");

    let (_, store) = home_with_store();
    let (other_home, other) = home_with_store();
    drop(store);
    let format = Path::new(&other).join("FORMAT");
    let text = std::fs::read_to_string(&format).unwrap();
    std::fs::write(&format, text.replacen("UMBRASTO 1", "UMBRASTO 9", 1)).unwrap();
    let (code, _, text) = run(other_home.path(), &["serve", "--store", &other]);
    assert_eq!(code, 13, "{text}");
    let (code, _, _) = run(other_home.path(), &["init", &other]);
    assert_eq!(code, 1);
}

/// Not a test but a measurement: `cargo test --release -p umbra-vault -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn how_fast_chunks_go_up_and_come_back() {
    let (home, store) = home_with_store();
    let home = home.path();
    let key = Identity::generate().unwrap();
    let vault = Running::embedded(home, &store, &key, &[]);
    let client = vault.connect(&key, "m");
    let tree = tree(10, 256 << 10);
    let bytes: u64 = tree.objects.iter().map(umbra_common::wire::Object::weight).sum();
    let rate = |start: std::time::Instant| {
        let seconds = start.elapsed().as_secs_f64();
        format!("{:.0} MiB/s ({seconds:.2} s)", bytes as f64 / seconds / 1_048_576.0)
    };
    let upload = client.upload(begin(1)).unwrap();
    let start = std::time::Instant::now();
    tree.objects.iter().for_each(|object| upload.send(object.clone()).unwrap());
    upload.commit(commit(&tree)).unwrap();
    let up = rate(start);
    let start = std::time::Instant::now();
    read_back(&client, &tree);
    let traffic = client.traffic();
    let more = (traffic.bytes_sent as f64 / bytes as f64 - 1.0) * 100.0;
    eprintln!("up {up}, down {}, {more:.1} % more bytes than objects", rate(start));
    let start = std::time::Instant::now();
    drop((upload, client));
    let client_gone = start.elapsed();
    let mut vault = vault;
    drop(vault.stdin.take());
    vault.code();
    eprintln!("client closed after {client_gone:?}, vault gone after {:?}", start.elapsed());
    let start = std::time::Instant::now();
    let vault = Running::embedded(home, &store, &key, &[]);
    eprintln!("vault there after {:?}", start.elapsed());
    drop(vault.connect(&key, "m"));
    eprintln!("connected and closed after {:?}", start.elapsed());
}
