//! A node with a real Ethereum node behind it: anvil, which is somebody else's and imperfect in its own ways.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::harness::{Lariat, call, eventually, root, rows, tool};

/// A profile whose one provider is never called in the test that uses it.
pub(crate) const PROFILE_WITHOUT_PROVIDERS_CALLED: &str = "---\nname: Public\nslug: public\nsampling: { rate: 1.0 }\n---\nchains:\n  ethereum:\n    chain_id: 1\n    providers:\n      - { id: nobody, priority: 1, url: \"http://127.0.0.1:9\" }\n";

fn anvil() -> Option<PathBuf> {
    let packages = root().join("tests/clients/node_modules/@foundry-rs");
    let entries = std::fs::read_dir(packages).ok()?;
    let mut found = entries.flatten().map(|entry| entry.path().join("bin/anvil"));
    found.find(|path| path.is_file())
}

struct Anvil(Child, u16);

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn start_anvil(path: PathBuf) -> Anvil {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let child = Command::new(path)
        .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--silent"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("anvil can be started");
    let anvil = Anvil(child, port);
    eventually("anvil answers", async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok().map(|_| ()))
        .await;
    anvil
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_to_a_real_node_are_routed_and_read_back_by_sql() {
    let Some(path) = tool("anvil", anvil()) else { return };
    let anvil = start_anvil(path).await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("profiles")).unwrap();
    let profile = "---\nname: Public\nslug: public\nsampling: { rate: 1.0 }\n---\nchains:\n  ethereum:\n    chain_id: 31337\n    providers:\n      - id: anvil\n        priority: 1\n        url: \"${ANVIL_URL}\"\n      - id: nobody\n        priority: 2\n        url: \"http://127.0.0.1:9\"\n";
    std::fs::write(dir.path().join("profiles/public.yml"), profile).unwrap();
    let config = dir.path().join("lariat.toml");
    std::fs::write(
        &config,
        format!(
            "data_dir = '{0}/data'\nprofiles_dir = '{0}/profiles'\n[proxy]\nlisten = '127.0.0.1:0'\n[collector]\notlp_grpc = '127.0.0.1:0'\notlp_http = '127.0.0.1:0'\nnode_api = '127.0.0.1:0'\n[cluster]\nregion = 'lab'\n",
            dir.path().display()
        ),
    )
    .unwrap();
    let url = format!("http://127.0.0.1:{}", anvil.1);
    let node = Lariat::start_with(&["node", "--config", &config.display().to_string()], &[("ANVIL_URL", &url)]);
    node.ready("proxy").await;
    let node_api = node.url("node_api").await;
    let query = Lariat::start_with(
        &["query", "--data-dir", &dir.path().join("query").display().to_string()],
        &[
            ("LARIAT_QUERY__HTTP", "127.0.0.1:0"),
            ("LARIAT_CLUSTER__NODES", &format!("[\"{}\"]", node_api.trim_start_matches("http://"))),
        ],
    );
    query.ready("query").await;

    let proxy = node.url("proxy").await;
    let mut ids = Vec::new();
    for (method, params) in [
        ("eth_blockNumber", "[]"),
        ("eth_getBalance", r#"["0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266","latest"]"#),
        ("eth_getBlockByNumber", r#"["latest",false]"#),
        ("web3_clientVersion", "[]"),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        let (reply, id) = call(&format!("{proxy}/rpc/ethereum?strategy=priority"), &body).await;
        assert!(!reply["result"].is_null(), "{method}: {reply}");
        ids.push(format!("'{id}'"));
    }
    let wanted = format!(
        "SELECT method, provider_id, region, result FROM routing_decisions WHERE request_id IN ({}) AND result = 'success'",
        ids.join(", ")
    );
    let answer = eventually("four decisions", async || {
        let answer = query.sql(&wanted).await;
        (rows(&answer).len() == 4).then_some(answer)
    })
    .await;
    assert!(rows(&answer).iter().all(|row| row["region"] == "lab" && row["provider_id"] == "anvil"), "{answer}");
}
