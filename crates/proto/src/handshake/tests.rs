use super::*;

const SECRET: &[u8] = &[7; 32];

fn answer_of(client_secret: &[u8]) -> Result<(String, Frame), HandshakeError> {
    let (server, challenge) = ServerHandshake::new(SECRET, "cs:1", "0.1.0", [1; 32]);
    let mut client = ClientHandshake::new(client_secret, "gateway:h1", [2; 32]);
    let ClientStep::Send(auth) = client.on_frame(&challenge)? else { panic!("the client must answer the challenge") };
    let (name, ok) = server.finish(&auth)?;
    let ClientStep::Done { server, .. } = client.on_frame(&ok)? else { panic!("the client must be done") };
    assert_eq!(server, "cs:1");
    Ok((name, ok))
}

#[test]
fn both_sides_prove_the_secret() {
    assert_eq!(answer_of(SECRET).unwrap().0, "gateway:h1");
}

#[test]
fn another_secret_is_refused() {
    assert_eq!(answer_of(&[8; 32]).unwrap_err(), HandshakeError::Proof { name: "gateway:h1".into() });
}

#[test]
fn an_answer_cannot_be_replayed_to_another_challenge() {
    let (_, challenge) = ServerHandshake::new(SECRET, "cs:1", "0.1.0", [1; 32]);
    let mut client = ClientHandshake::new(SECRET, "gateway:h1", [2; 32]);
    let ClientStep::Send(auth) = client.on_frame(&challenge).unwrap() else { panic!("no answer") };
    let (other, _) = ServerHandshake::new(SECRET, "cs:1", "0.1.0", [3; 32]);
    assert!(matches!(other.finish(&auth), Err(HandshakeError::Proof { .. })));
}

#[test]
fn a_server_without_the_secret_is_found_out() {
    let (server, challenge) = ServerHandshake::new(&[9; 32], "cs:1", "0.1.0", [1; 32]);
    let mut client = ClientHandshake::new(SECRET, "gateway:h1", [2; 32]);
    let ClientStep::Send(auth) = client.on_frame(&challenge).unwrap() else { panic!("no answer") };
    assert!(server.finish(&auth).is_err());
    let forged = AuthOk { mac: "00".repeat(32), server: "cs:1".into(), version: String::new() };
    let frame = json_frame(Header::new(Kind::AuthOk, 0), &forged);
    assert_eq!(client.on_frame(&frame).unwrap_err(), HandshakeError::Proof { name: "cs:1".into() });
}

#[test]
fn frames_out_of_turn_are_refused() {
    let (server, challenge) = ServerHandshake::new(SECRET, "cs:1", "0.1.0", [1; 32]);
    let got = server.finish(&challenge).unwrap_err();
    assert_eq!(got, HandshakeError::Unexpected { expected: Kind::Auth, got: Kind::Challenge });
}
