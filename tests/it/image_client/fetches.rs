//! Images that upstream gave by address.

use std::sync::{Arc, Mutex};

use allotment::openai::{Image, ImageClient, ImageErrorKind, Route};
use allotment_upstream::{Org, Raw, Script, Terms};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::stage::{KEY, Stage, alice, lighthouse};

/// An image that the text of a model says is at `url`.
async fn at(stage: &Stage, client: &ImageClient, url: &str) -> Image {
    let body = serde_json::json!({ "choices": [{ "message": { "content": format!("![drawn]({url})") } }] });
    stage.upstream.next(Script::Reply(Raw::new(200).body(body.to_string())));
    client.run(&alice(), lighthouse()).await.unwrap().images.remove(0)
}

/// Answers each call with this, and keeps what was asked.
async fn site(answer: String) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a.png", listener.local_addr().unwrap());
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let record = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut call, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 64 << 10];
            let length = call.read(&mut head).await.unwrap();
            record.lock().unwrap().push(String::from_utf8_lossy(&head[..length]).to_lowercase());
            call.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, asked)
}

#[tokio::test]
async fn an_address_in_a_private_network_is_refused_unless_a_route_is_there() {
    let stage = Stage::new(Terms::new().org(Org::new("org-test").key(KEY))).await;
    let client = stage.client([Route::chat("chat", stage.upstream.base_url(), KEY)]);
    let (url, asked) = site("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\npng".into()).await;
    for url in ["http://169.254.169.254/latest/meta-data", "http://10.0.0.1/a.png", "http://[fd00::1]/a.png"] {
        let error = client.fetch(&at(&stage, &client, url).await).await.unwrap_err();
        assert_eq!(error.kind(), ImageErrorKind::Invalid, "{url}");
    }
    let fetched = client.fetch(&at(&stage, &client, &url).await).await.unwrap();
    assert_eq!(fetched.bytes().unwrap()[..], *b"png");
    let elsewhere = stage.client([Route::compatible("elsewhere", "https://a.example/v1", KEY)]);
    let image = at(&stage, &client, &url).await;
    assert_eq!(elsewhere.fetch(&image).await.unwrap_err().kind(), ImageErrorKind::Invalid);
    let asked = asked.lock().unwrap().clone();
    assert_eq!(asked.len(), 1);
    assert!(!asked[0].contains("authorization") && !asked[0].contains(KEY), "the key stays here: {asked:?}");
}

#[tokio::test]
async fn an_address_that_leads_elsewhere_or_to_nothing_gives_no_image() {
    let stage = Stage::new(Terms::new()).await;
    let client = stage.client([Route::chat("chat", stage.upstream.base_url(), stage.upstream.key())]);
    let (to, asked) = site("HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\npng".into()).await;
    let moved = format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let gone = "HTTP/1.1 404 Not Found\r\ncontent-length: 3\r\nconnection: close\r\n\r\npng".to_owned();
    for answer in [moved, gone] {
        let (url, _) = site(answer).await;
        let error = client.fetch(&at(&stage, &client, &url).await).await.unwrap_err();
        assert_eq!(error.kind(), ImageErrorKind::Unreadable, "{error:?}");
    }
    assert!(asked.lock().unwrap().is_empty(), "nobody goes on to where it was sent");
}
