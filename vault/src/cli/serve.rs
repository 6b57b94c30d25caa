//! `umbra-vault serve`.

use super::output::Output;
use crate::admin::{AdminServer, Serving};
use crate::backend::StoreBackend;
use crate::error::{Result, VaultError};
use crate::place::{Mode, OpenStore, Place};
use crate::signals::{self, Ending};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::{Arc, mpsc};
use umbra_common::wire::DEFAULT_PORT;
use umbra_net::server::{Backend, Serve, Server};
use umbra_net::{Identity, names};

/// Bytes of objects that may have arrived and not yet be stored.
const BUDGET_BYTES: u64 = 256 << 20;

/// Serves until a signal, then finishes what is under way.
pub(super) fn run(place: &Place, listen: Option<&str>, output: &Output) -> Result<u8> {
    let (send, endings) = mpsc::channel();
    signals::watch(send.clone())?;
    let open = place.open(Mode::ReadWrite)?;
    let identity = place.identity()?;
    let backend = Arc::new(StoreBackend::new(Arc::clone(&open.store)));
    let server = listen_on(listen, &open, &identity, &backend)?;
    let serving = Serving { listen: server.address(), fingerprint: server.fingerprint() };
    let broken = Arc::new(move |error| {
        // Without a receiver it is ending already.
        let _ = send.send(Ending::Broken(error));
    });
    let admin = AdminServer::start(&open, &backend, serving, broken)?;
    let address = server.address().to_string();
    output.text(&format!(
        "umbra-vault serves {} on {address}, key {}",
        place.dir().display(),
        serving.fingerprint
    ))?;
    output.object(
        "status",
        json!({
            "status": "ready",
            "address": address,
            "fingerprint": serving.fingerprint.to_string(),
            "store": open.store.id().to_string(),
            "socket": admin.path(),
        }),
    )?;
    let ending = endings.recv().unwrap_or(Ending::Terminated);
    drop(admin);
    server.stop();
    let finished = finish(open, backend);
    if let Ending::Broken(error) = ending {
        // What went wrong first says more than what it entailed.
        return Err(error);
    }
    finished?;
    // Whoever started this may have read no further than "ready"; that is no failure of the vault.
    let _ = output.summary(json!({ "ended": true }));
    Ok(match ending {
        Ending::Interrupted => 130,
        Ending::Terminated | Ending::InputClosed | Ending::Broken(_) => 0,
    })
}

/// Closes the store once nobody uses it any more.
pub(super) fn finish(open: OpenStore, backend: Arc<StoreBackend>) -> Result<()> {
    backend.release();
    drop(backend);
    open.close()
}

/// Starts a server for the store.
pub(super) fn start(
    listen: SocketAddr,
    open: &OpenStore,
    identity: &Identity,
    backend: &Arc<StoreBackend>,
) -> Result<Server> {
    let options = Serve {
        identity: identity.clone(),
        listen,
        store: open.store.id().0,
        software: concat!("umbra-vault ", env!("CARGO_PKG_VERSION")).to_owned(),
        budget_bytes: BUDGET_BYTES,
    };
    Ok(Server::start(options, Arc::clone(backend) as Arc<dyn Backend>)?)
}

fn listen_on(
    listen: Option<&str>,
    open: &OpenStore,
    identity: &Identity,
    backend: &Arc<StoreBackend>,
) -> Result<Server> {
    let Some(text) = listen else {
        // Both families where the kernel has both.
        let six = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, DEFAULT_PORT));
        let four = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, DEFAULT_PORT));
        return start(six, open, identity, backend)
            .or_else(|_| start(four, open, identity, backend));
    };
    let usage = || VaultError::Usage {
        what: format!("{text:?} is no address to listen on"),
        hint: "write ADDR:PORT, for example 0.0.0.0:8407 or [::]:8407".to_owned(),
    };
    let found = names::look_up(text).or_else(|_| names::look_up((text, DEFAULT_PORT)));
    let address = found.ok().and_then(|found| found.first().copied()).ok_or_else(usage)?;
    start(address, open, identity, backend)
}
