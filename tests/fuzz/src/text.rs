//! Text: pairs survive being written and read, pieces are put together whatever their lengths, numbers mean what they
//! say, and nothing secret is printed.

use arbitrary::Arbitrary;
use braid::iscsi::Payload;
use braid::iscsi::text::{KeyList, TextCollector, parse_boolean, parse_list, parse_number, parse_range};

/// Most bytes of a text (R44).
const MOST: usize = 64 * 1024;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// Length of the pieces in which the text comes.
    piece: u16,
    /// How often the text is repeated.
    times: u8,
    text: &'a [u8],
}

/// Runs one input.
pub fn run(bytes: &[u8]) {
    super::with_input(bytes, go);
}

fn go(input: &Input<'_>) {
    let text = input.text.repeat(usize::from(input.times).max(1));
    let whole = KeyList::parse(&text);
    assert_eq!(collect(&text, usize::from(input.piece).max(1)), (text.len() <= MOST).then(|| whole.clone()));
    if let Ok(list) = whole {
        let bytes = list.to_bytes();
        assert!(bytes.len() <= text.len());
        assert_eq!(KeyList::parse(&bytes), Ok(list.clone()));
        let line = list.to_string();
        assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
        for (key, value) in list.iter() {
            assert!(!key.is_empty() && key.len() <= 63 && value.len() <= 8192);
            values(value);
        }
    }
}

/// The text out of its pieces; none if it is too long.
fn collect(text: &[u8], piece: usize) -> Option<Result<KeyList, braid::iscsi::WireError>> {
    let mut collector = TextCollector::new();
    let mut pieces = text.chunks(piece).peekable();
    loop {
        let piece = pieces.next().unwrap_or_default();
        let more = pieces.peek().is_some();
        match collector.push(&Payload::from(piece.to_vec()), more) {
            Ok(None) => assert!(more),
            Ok(Some(list)) => {
                assert!(!more && !collector.is_pending());
                return Some(Ok(list));
            }
            Err(error) => {
                assert!(!collector.is_pending(), "what was collected stays");
                return if text.len() > MOST { None } else { Some(Err(error)) };
            }
        }
    }
}

fn values(text: &str) {
    assert_eq!(parse_number(text), number(text));
    assert_eq!(
        parse_boolean(text).map(|b| if b { "Yes" } else { "No" }),
        ["Yes", "No"].into_iter().find(|t| *t == text)
    );
    assert_eq!(parse_list(text).collect::<Vec<_>>().join(","), text);
    if let Some((low, high)) = parse_range(text) {
        assert!(low <= high && text.contains('~'));
    }
}

/// A number digit by digit.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.as_bytes() {
        [b'0', b'x' | b'X', hex @ ..] => (hex, 16_u64),
        decimal => (decimal, 10),
    };
    let add = |number: u64, digit: &u8| {
        let digit = char::from(*digit).to_digit(u32::try_from(radix).ok()?)?;
        number.checked_mul(radix)?.checked_add(u64::from(digit))
    };
    (!digits.is_empty()).then(|| digits.iter().try_fold(0, add))?
}
