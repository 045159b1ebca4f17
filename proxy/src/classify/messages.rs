//! What the messages of providers say. Providers reuse codes freely, so the text is the better witness; but text is also
//! where chance hits are, so a pattern is as long as it must be to mean one thing, and begins at the beginning of a word.
//! What a contract says about itself is recognised before everything else: "execution reverted: unauthorized" is the
//! contract's opinion of the caller, not the provider's of us.
//!
//! Patterns are matched against the message as lower-case words with one space before each and one at the end; `*` stands
//! for any text. Regular expressions were rejected: they would say the same in more characters.

use lariat_schema::vocabulary::ErrorCategory;

/// Patterns, in the order in which they are looked for.
const PATTERNS: &[(ErrorCategory, &[&str])] = &[
    (
        ErrorCategory::ExecutionRevert,
        &[" execution reverted", " vm execution error", " vm exception", " transaction reverted", " call reverted"],
    ),
    (
        ErrorCategory::RateLimit,
        &[
            " rate limit",
            " ratelimit",
            " rate exceeded",
            " too many request",
            " compute unit",
            " quota ",
            " throttl",
            " capacity exceeded",
            " capacity limit",
            " request limit",
            " request count exceeded",
            " rps limit",
            " calls per second",
            " requests per second",
            " daily limit",
            " monthly limit",
            " credits exhausted",
            " out of credits",
        ],
    ),
    (
        ErrorCategory::AuthError,
        &[
            " unauthorized",
            " unauthenticated",
            " authentication",
            " must authenticate",
            " must be authenticated",
            " you are not authorized",
            " forbidden",
            " access denied",
            " api key",
            " invalid project id",
            " project id required",
            " rejected due to project id",
            " invalid access token",
        ],
    ),
    (
        ErrorCategory::ServerError,
        &[
            " service unavailable",
            " temporarily unavailable",
            " bad gateway",
            " gateway timeout",
            " gateway time out",
            " internal server error",
            " upstream error",
            " upstream request",
            " upstream connect",
            " upstream server",
            " upstream timeout",
            " upstream timed out",
            " upstream unavailable",
            " upstream fail",
            " healthy upstream",
            " available upstream",
            " healthy backend",
            " available backend",
            " backend is unavailable",
            " server is busy",
            " server busy",
            " is overloaded",
            " server overloaded",
            " try again later",
            " connection refused",
            " connection reset",
            " context deadline exceeded",
            " not synced",
            " still syncing",
            " is syncing",
        ],
    ),
    (
        ErrorCategory::InvalidParams,
        &[
            " invalid param",
            " invalid argument",
            " missing value for required argument",
            " missing required",
            " cannot unmarshal",
            " too many arguments",
            " invalid hex",
            " hex string ",
            " invalid address",
            " invalid block range",
            " invalid signature",
            " invalid sender",
            " invalid chain id",
            " cannot specify both",
            " transaction type not supported",
            " rlp ",
        ],
    ),
    (
        ErrorCategory::ExecutionRevert,
        &[
            " reverted ",
            " always failing transaction",
            " out of gas",
            " gas required exceeds",
            " intrinsic gas too low",
            " exceeds block gas limit",
            " gas limit reached",
            " gas uint64 overflow",
            " insufficient funds",
            " insufficient balance",
            " insufficient sender balance",
            " nonce too low",
            " nonce too high",
            " nonce is too low",
            " nonce is too high",
            " underpriced",
            " already known",
            " known transaction",
            " already imported",
            " fee per gas less than block base fee",
            " max priority fee per gas higher than",
            " exceeds the configured cap",
            " stack underflow",
            " stack limit reached",
            " invalid opcode",
            " bad instruction",
            " invalid jump",
            " bad jump",
            " write protection",
            " max code size exceeded",
            " max initcode size exceeded",
            " sender not an eoa",
            " sender is not an eoa",
            " evm error",
        ],
    ),
    (
        ErrorCategory::RequiresArchival,
        &[
            " missing trie node",
            " archive",
            " archival",
            " pruned",
            " pruning",
            " state * not available",
            " state unavailable",
            " no state available",
            " historical state",
            " state histories",
            " too old ",
            " exceeds maximum proof window",
            " exceeds the maximum proof window",
        ],
    ),
    (
        ErrorCategory::BlockNotAvailable,
        &[
            " header not found",
            " header for hash not found",
            " block not found",
            " block * not found",
            " unknown block",
            " could not find block",
            " cannot find block",
            " not yet available",
            " block is out of range",
            " block number out of range",
            " beyond current head",
            " beyond the head",
            " unfinalized data",
            " future block",
        ],
    ),
    (
        ErrorCategory::CapabilityViolation,
        &[
            " block range",
            " blocks range",
            " range too large",
            " range is too",
            " range limit",
            " is limited to",
            " are limited to",
            " ranges over",
            " maximum range",
            " max range",
            " exceeds max",
            " exceed max",
            " exceeded max",
            " returned more than",
            " more than * results",
            " more than * logs",
            " too many logs",
            " max results",
            " response size",
            " response too large",
            " response is too",
            " result too large",
            " payload too large",
            " entity too large",
            " content length too large",
            " body too large",
            " batch too large",
            " batch size",
            " batch limit",
            " query timeout",
            " query timed out",
            " execution aborted timeout",
            " execution timeout",
            " free tier",
            " freetier",
            " your plan",
            " current plan",
        ],
    ),
    (
        ErrorCategory::MethodNotFound,
        &[
            " method not found",
            " method not supported",
            " method is not supported",
            " method * does not exist",
            " unsupported method",
            " method * not whitelisted",
            " method * not allowed",
            " method disabled",
            " method is disabled",
        ],
    ),
];

/// What a message says, if it says anything.
pub(super) fn read(message: &str) -> Option<ErrorCategory> {
    let words = words(message);
    let found = PATTERNS.iter().find(|(_, patterns)| patterns.iter().any(|pattern| holds(&words, pattern)));
    found.map(|(category, _)| *category)
}

/// The lower-case words of a message, with a space around each.
fn words(message: &str) -> String {
    let mut words = String::with_capacity(message.len() + 2);
    words.push(' ');
    for letter in message.chars() {
        if letter.is_alphanumeric() {
            words.extend(letter.to_lowercase());
        } else if !words.ends_with(' ') {
            words.push(' ');
        }
    }
    if !words.ends_with(' ') {
        words.push(' ');
    }
    words
}

/// True where the parts of the pattern stand in the text, one after the other.
fn holds(text: &str, pattern: &str) -> bool {
    let mut rest = text;
    pattern.split('*').all(|part| {
        let found = rest.find(part);
        if let Some(at) = found {
            rest = &rest[at + part.len()..];
        }
        found.is_some()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn words_are_told_apart_by_anything_that_is_neither_letter_nor_digit() {
        assert_eq!(words("You've hit: RATE-limit (50/s)!"), " you ve hit rate limit 50 s ");
        assert_eq!(words(""), " ");
    }

    #[test]
    fn a_pattern_begins_at_a_word_and_a_star_stands_for_anything() {
        assert!(holds(" the block 0xab was not found ", " block * not found"));
        assert!(!holds(" not found in the block ", " block * not found"));
        assert!(!holds(" quotation ", " quota "));
        assert!(!holds(" subheader not found ", " header not found"));
    }

    #[test]
    fn every_pattern_is_in_the_form_in_which_messages_are_looked_at() {
        for pattern in PATTERNS.iter().flat_map(|(_, patterns)| *patterns) {
            let form = words(&pattern.replace('*', "star"));
            assert!(
                form.trim_end() == pattern.replace('*', "star").trim_end() && pattern.starts_with(' '),
                "{pattern}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_message_makes_the_reader_panic(message in ".{0,300}") {
            let _ = read(&message);
        }
    }
}
