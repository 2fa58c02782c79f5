//! Round trips through lanes and a language model, hostile codes, cost, and the numerics' fingerprint.

use super::*;
use proptest::prelude::*;

/// Lines as services write them, from a fixed generator.
fn log(bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    let mut seed = 1_u32;
    let mut next = |n: u32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) % n
    };
    while out.len() < bytes {
        let (s, id) = (out.len() / 50, next(90_000));
        let what =
            ["served block", "received block", "verification succeeded for"][next(3) as usize];
        let line = format!(
            "081109 20{:02}{:02} {} INFO dfs.DataNode$PacketResponder: {what} blk_{id} of size {}\n",
            s / 60 % 60,
            s % 60,
            next(200),
            next(67_108_864)
        );
        out.extend_from_slice(line.as_bytes());
    }
    out.truncate(bytes);
    out
}

fn prose() -> Vec<u8> {
    "It was a bright cold day in April, and the clocks were striking thirteen. "
        .repeat(20)
        .into_bytes()
        .into_iter()
        .chain((0..4000_u32).map(|i| (i * i % 251) as u8))
        .chain("日志文件系统".repeat(30).into_bytes())
        .collect()
}

fn round_trip(text: &[u8], lanes: usize) -> Coded {
    let coded = encode(text, lanes, &mut Predictor::new(text.len()), None);
    let back = decode(&coded.bytes, text.len(), &mut Predictor::new(text.len()), None);
    assert!(back.as_deref() == Some(text), "{} bytes in {lanes} lanes", text.len());
    coded
}

/// Prefers a token that depends on the lane and the token before.
struct Toy {
    /// The leaf that each lane prefers.
    lanes: Vec<usize>,
}

impl TokenModel for Toy {
    fn lanes(&self) -> usize {
        self.lanes.len()
    }
    fn reset(&mut self, lanes: usize) {
        self.lanes = (0..lanes).map(|l| l * 7).collect();
    }
    fn advance(&mut self, tokens: &[Option<Token>]) {
        for (lane, token) in self.lanes.iter_mut().zip(tokens) {
            if let Some(t) = token {
                *lane = usize::from(*t) * 31 % VOCAB.size();
            }
        }
    }
    fn probability(&self, lane: usize, _: u16, [from, mid, to]: [usize; 3]) -> u32 {
        // What is left of 2^31 is the last leaf's.
        let before = |leaf: usize| match leaf {
            _ if leaf == VOCAB.size() => 1 << 31,
            _ if leaf > self.lanes[lane] => (leaf as u64 - 1) * (1 << 8) + (1 << 20),
            _ => leaf as u64 * (1 << 8),
        };
        let mass = |leaves: std::ops::Range<usize>| before(leaves.end) - before(leaves.start);
        let all = mass(from..to);
        (((mass(mid..to) << 16) + all / 2) / all).clamp(1, 65535) as u32
    }
    fn likeliest(&self, _: usize) -> Option<usize> {
        Some(VOCAB.size() - 1)
    }
}

fn lm(toy: &mut Toy, beside: bool) -> Lm<'_> {
    if beside { Some(toy) } else { None }
}

/// Knows another part of such a log: contexts with few and with many followers.
fn prior() -> Arc<prior::Prior> {
    let mut all = vec![
        std::collections::BTreeMap::<u32, std::collections::BTreeMap<u16, u32>>::new(
        );
        prior::KINDS
    ];
    let text = [log(9000), prose()].concat();
    prior::walk(&VOCAB, &VOCAB.cut(&text), |hashes, leaf| {
        for (kind, hash) in all.iter_mut().zip(hashes) {
            *kind.entry(*hash as u32).or_default().entry(leaf).or_default() += 1;
        }
    });
    let kinds = std::array::from_fn(|k| {
        let mut contexts = prior::Contexts::new(all[k].len());
        for (hash, followers) in &all[k] {
            let list: Vec<u16> =
                followers.iter().map(|(leaf, n)| leaf << 4 | prior::count_code(*n)).collect();
            contexts.push(*hash, &list);
        }
        contexts
    });
    Arc::new(prior::Prior::new(&VOCAB, &kinds))
}

#[test]
fn texts_come_back_through_any_number_of_lanes() {
    for text in [log(20_000), prose(), Vec::new(), b"a".to_vec(), (0..=255).collect()] {
        for lanes in [1, 2, 8, LANES_MAX, 1000] {
            round_trip(&text, lanes);
        }
    }
}

#[test]
fn texts_come_back_with_a_language_model() {
    for (text, lanes) in [(log(3000), 1), (prose(), 3), (b"ab".to_vec(), 2)] {
        let fresh = || Predictor::beside(&VOCAB, text.len());
        let mut toy = Toy { lanes: Vec::new() };
        let coded = encode(&text, lanes, &mut fresh(), Some(&mut toy));
        let without = encode(&text, lanes, &mut fresh(), None);
        assert!(coded.bytes != without.bytes, "the model must have a say");
        let mut toy = Toy { lanes: Vec::new() };
        let back = decode(&coded.bytes, text.len(), &mut fresh(), Some(&mut toy)).unwrap();
        assert!(back == text);
    }
}

#[test]
fn what_was_learned_makes_the_next_text_shorter() {
    let text = log(40_000);
    let mut primed = Predictor::default();
    train(&text[..20_000], &mut primed);
    let cold = encode(&text[20_000..], 1, &mut Predictor::default(), None).bytes;
    let warm = encode(&text[20_000..], 1, &mut primed.clone(), None).bytes;
    assert!(warm.len() * 100 < cold.len() * 95, "{} {}", warm.len(), cold.len());
    assert!(decode(&warm, 20_000, &mut primed, None).unwrap() == text[20_000..]);
}

#[test]
fn wide_and_plain_loops_agree() {
    for text in [log(10_000), prose()] {
        let len = text.len();
        let prior = prior();
        for (predictor, beside) in [
            (Predictor::new(len), false),
            (Predictor::beside(&VOCAB, len), true),
            (Predictor::informed(&VOCAB, len, &prior, Company::None), false),
            (Predictor::informed(&VOCAB, len, &prior, Company::Foretelling), true),
            (Predictor::informed(&VOCAB, len, &prior, Company::Correcting), true),
        ] {
            let (mut one, mut other) = (Toy { lanes: Vec::new() }, Toy { lanes: Vec::new() });
            let wide = encode(&text, 2, &mut predictor.clone(), lm(&mut one, beside));
            let mut fresh = predictor.clone();
            let plain = encode_any::<vector::Plain>(&text, 2, &mut fresh, lm(&mut other, beside));
            assert!(wide == plain);
            let mut fresh = predictor.clone();
            let back = decode_any::<vector::Plain>(
                &wide.bytes,
                len,
                &mut fresh,
                lm(&mut one, beside),
                &mut |_| usize::MAX,
            );
            assert!(back.unwrap() == text);
            let back = decode(&wide.bytes, len, &mut predictor.clone(), lm(&mut other, beside));
            assert!(back.unwrap() == text);
        }
    }
}

#[test]
fn the_code_costs_what_the_decisions_are_worth() {
    let check = |name: &str, text: &[u8]| {
        for block in text.chunks(128 << 10) {
            let coded = encode(block, 1, &mut Predictor::new(block.len()), None);
            let ideal = coded.ideal as f64 / 65536.0 / 8.0;
            let most = ideal * 1.001 + 8.0;
            assert!(coded.bytes.len() as f64 <= most, "{name}: {} {ideal}", coded.bytes.len());
        }
    };
    check("log", &log(200_000));
    check("mixture", &prose());
    if let Some(dir) = std::env::var_os("LMFS_CORPUS") {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            check(&path.display().to_string(), &std::fs::read(&path).unwrap());
        }
    }
}

/// Changes only with the numerics, which then need a new engine version.
#[test]
fn the_numerics_have_not_changed() {
    let mut text = log(8000);
    text.extend(prose());
    let code = |mut predictor: Predictor, lm: Lm<'_>| {
        let coded = encode(&text, 2, &mut predictor, lm);
        (coded.bytes.len(), blake3::hash(&coded.bytes).to_hex()[..16].to_owned())
    };
    let len = text.len();
    let (mut toy, mut corrects) = (Toy { lanes: Vec::new() }, Toy { lanes: Vec::new() });
    let got = [
        code(Predictor::new(len), None),
        code(Predictor::beside(&VOCAB, len), Some(&mut toy)),
        code(Predictor::informed(&VOCAB, len, &prior(), Company::None), None),
        code(Predictor::informed(&VOCAB, len, &prior(), Company::Correcting), Some(&mut corrects)),
    ];
    let known = [
        (1112, "9844ca5b9acddbe3"),
        (1063, "4810dd1ddcc64d64"),
        (172, "e0941fea9ce33db5"),
        (193, "570f221d1851e3cd"),
    ];
    assert_eq!(got, known.map(|(len, hash)| (len, hash.to_owned())));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_bytes_come_back(text in proptest::collection::vec(any::<u8>(), 0..1500), lanes in 1..9_usize) {
        round_trip(&text, lanes);
    }

    #[test]
    fn any_code_decodes_to_something_or_nothing(
        code in proptest::collection::vec(any::<u8>(), 0..300),
        len in 0..3000_usize,
    ) {
        if let Some(text) = decode(&code, len, &mut Predictor::new(len), None) {
            prop_assert_eq!(text.len(), len);
        }
    }

    #[test]
    fn damaged_codes_do_no_harm(at in 0..10_000_usize, with in 1..=255_u8) {
        let text = log(3000);
        let mut code = encode(&text, 4, &mut Predictor::new(text.len()), None).bytes;
        let at = at % code.len();
        code[at] ^= with;
        if let Some(text) = decode(&code, 3000, &mut Predictor::new(3000), None) {
            prop_assert_eq!(text.len(), 3000);
        }
    }
}

#[test]
fn costs_of_tokens_add_up_to_that_of_the_text() {
    let text: Vec<u8> =
        (0..3000).flat_map(|n| format!("{n} user{} logs in\n", n * 7 % 31).into_bytes()).collect();
    let coded = encode(&text, 1, &mut Predictor::new(text.len()), None);
    let costs = costs(&text, &mut Predictor::new(text.len()));
    assert_eq!(costs.iter().map(|c| c.len as usize).sum::<usize>(), text.len());
    let sum: u64 = costs.iter().map(|c| c.bits).sum();
    // Each token's cost is rounded for itself.
    assert!(sum.abs_diff(coded.ideal) <= 2 * costs.len() as u64, "{sum} {}", coded.ideal);
}
