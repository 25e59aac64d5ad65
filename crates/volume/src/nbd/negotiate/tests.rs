use proptest::prelude::*;

use super::*;

fn start() -> (Negotiation, BytesMut) {
    let mut out = BytesMut::new();
    let export = Export { name: "vol".to_owned(), size_bytes: 1 << 30, read_only: false };
    (Negotiation::new(export, &mut out), out)
}

fn hello(rest: &[Vec<u8>]) -> BytesMut {
    let mut bytes = BytesMut::new();
    bytes.put_u32(3);
    rest.iter().for_each(|one| bytes.put_slice(one));
    bytes
}

fn opt(number: u32, data: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    out.put_u64(OPTION_MAGIC);
    out.put_u32(number);
    out.put_u32(data.len() as u32);
    out.put_slice(data);
    out.to_vec()
}

fn text(value: &str) -> Vec<u8> {
    [&(value.len() as u32).to_be_bytes()[..], value.as_bytes()].concat()
}

fn go(name: &str) -> Vec<u8> {
    [text(name), vec![0, 1, 0, 3]].concat()
}

fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut out = text(name);
    out.extend((queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| out.extend(text(query)));
    out
}

/// The kinds of the answers, in order.
fn kinds(mut out: &[u8]) -> Vec<u32> {
    let mut kinds = Vec::new();
    while out.len() >= 20 {
        assert_eq!(out.get_u64(), OPTION_REPLY_MAGIC);
        out.get_u32();
        kinds.push(out.get_u32());
        let len = out.get_u32() as usize;
        out.advance(len);
    }
    kinds
}

fn talk(options: &[Vec<u8>]) -> (Step, Vec<u32>) {
    let (mut negotiation, _) = start();
    let mut out = BytesMut::new();
    let step = negotiation.feed(&mut hello(options), &mut out);
    (step, kinds(&out))
}

#[test]
fn the_usual_client_gets_through() {
    let options = [
        opt(option::STRUCTURED_REPLY, b""),
        opt(option::SET_META_CONTEXT, &meta("vol", &[ALLOCATION])),
        opt(option::GO, &go("vol")),
    ];
    let (step, kinds) = talk(&options);
    assert_eq!(step, Step::Transmit(Agreed { structured: true, allocation: true }));
    assert_eq!(kinds, [reply::ACK, reply::META_CONTEXT, reply::ACK, reply::INFO, reply::INFO, reply::ACK]);
}

#[test]
fn every_option_has_its_answer() {
    type Row<'a> = (&'a str, u32, Vec<u8>, Step, &'a [u32]);
    let table: &[Row] = &[
        ("an option of another age", 11, vec![], Step::More, &[reply::ERR_UNSUP]),
        ("TLS", 5, vec![], Step::More, &[reply::ERR_UNSUP]),
        ("list", option::LIST, vec![], Step::More, &[reply::SERVER, reply::ACK]),
        ("list with data", option::LIST, vec![1], Step::More, &[reply::ERR_INVALID]),
        ("unknown export", option::GO, go("other"), Step::More, &[reply::ERR_UNKNOWN]),
        ("the default export", option::INFO, go(""), Step::More, &[reply::INFO, reply::INFO, reply::ACK]),
        ("a name longer than its option", option::GO, vec![0, 0, 1, 0, b'v'], Step::More, &[reply::ERR_INVALID]),
        (
            "a list longer than its option",
            option::GO,
            [text("vol"), vec![0, 9]].concat(),
            Step::More,
            &[reply::ERR_INVALID],
        ),
        ("nothing", option::GO, vec![], Step::More, &[reply::ERR_INVALID]),
        ("context before structured", option::SET_META_CONTEXT, meta("vol", &[]), Step::More, &[reply::ERR_INVALID]),
        ("too long", option::GO, vec![0; 9000], Step::More, &[reply::ERR_TOO_BIG]),
        ("abort", option::ABORT, vec![], Step::Close, &[reply::ACK]),
    ];
    for (name, number, data, step, expected) in table {
        assert_eq!(talk(&[opt(*number, data)]), (*step, expected.to_vec()), "{name}");
    }
}

#[test]
fn the_old_way_works_too() {
    let (mut negotiation, greeting) = start();
    assert_eq!(greeting.len(), 18);
    let mut out = BytesMut::new();
    let step = negotiation.feed(&mut hello(&[opt(option::EXPORT_NAME, b"vol")]), &mut out);
    assert_eq!((step, out.len()), (Step::Transmit(Agreed::default()), 10));
    let (mut negotiation, _) = start();
    let mut input = BytesMut::new();
    input.put_u32(1);
    input.put_slice(&opt(option::EXPORT_NAME, b"vol"));
    let mut out = BytesMut::new();
    negotiation.feed(&mut input, &mut out);
    assert_eq!(out.len(), 134, "with the 124 zeros for a client that wants them");
    assert_eq!(talk(&[opt(option::EXPORT_NAME, b"other")]).0, Step::Close);
}

#[test]
fn a_context_that_is_chosen_again_without_a_query_is_gone() {
    let options = [
        opt(option::STRUCTURED_REPLY, b""),
        opt(option::SET_META_CONTEXT, &meta("vol", &[ALLOCATION])),
        opt(option::SET_META_CONTEXT, &meta("vol", &["qemu:dirty"])),
        opt(option::GO, &go("vol")),
    ];
    assert_eq!(talk(&options).0, Step::Transmit(Agreed { structured: true, allocation: false }));
}

#[test]
fn a_client_that_never_ends_is_shown_the_door() {
    let options: Vec<Vec<u8>> = (0..300).map(|_| opt(option::LIST, b"")).collect();
    assert_eq!(talk(&options).0, Step::Close);
    let mut huge = opt(option::LIST, b"");
    huge[12..16].copy_from_slice(&u32::MAX.to_be_bytes());
    assert_eq!(talk(&[huge]).0, Step::Close);
    let (mut negotiation, _) = start();
    assert_eq!(negotiation.feed(&mut BytesMut::from(&[0xff; 4][..]), &mut BytesMut::new()), Step::Close);
}

proptest! {
    #[test]
    fn any_cut_of_the_bytes_gives_the_same_talk(cuts in proptest::collection::vec(1usize..40, 1..60)) {
        let options = [
            opt(option::STRUCTURED_REPLY, b""),
            opt(option::GO, &[0; 9000]),
            opt(option::LIST_META_CONTEXT, &meta("vol", &[])),
            opt(option::SET_META_CONTEXT, &meta("", &["base:allocation"])),
            opt(option::GO, &go("vol")),
        ];
        let all = hello(&options);
        let (mut negotiation, _) = start();
        let (mut input, mut out, mut step, mut at) = (BytesMut::new(), BytesMut::new(), Step::More, 0);
        for cut in cuts.iter().chain(std::iter::repeat(&4096)) {
            let end = (at + cut).min(all.len());
            input.put_slice(&all[at..end]);
            at = end;
            step = negotiation.feed(&mut input, &mut out);
            if step != Step::More || at == all.len() {
                break;
            }
        }
        prop_assert_eq!((step, kinds(&out)), talk(&options));
    }

    #[test]
    fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..600)) {
        let (mut negotiation, _) = start();
        let mut input = BytesMut::new();
        input.put_u32(3);
        input.put_u64(OPTION_MAGIC);
        input.put_slice(&noise);
        negotiation.feed(&mut input, &mut BytesMut::new());
    }
}
