//! What errors of real providers are taken for, and what follows from each category.

use super::*;
use ErrorCategory::{
    AuthError, BlockNotAvailable, CapabilityViolation, ChainError, ClientError, ExecutionRevert, InternalError,
    InvalidParams, InvalidRequest, InvalidResponse, LocalCapacity, MethodNotFound, NetworkError, ParseError, RateLimit,
    RequiresArchival, ServerError, Timeout, UnclassifiedServerError, UserError,
};

fn of(code: i64, message: &str) -> ErrorCategory {
    of_error(&[], 200, &RpcError { code, message: message.to_owned(), data: None })
}

#[test]
fn a_providers_own_rule_wins_over_everything_and_the_first_of_several() {
    let rule = |code, text: &[&str], category| ErrorRule {
        code,
        message_contains: text.iter().map(|text| (*text).to_owned()).collect(),
        category,
    };
    let rules = [
        rule(Some(-32601), &[], RateLimit),
        rule(None, &["odd", "strange"], AuthError),
        rule(Some(3), &["strange"], ServerError),
    ];
    let of = |code, message: &str| of_error(&rules, 200, &RpcError { code, message: message.to_owned(), data: None });
    assert_eq!(of(-32601, ""), RateLimit);
    assert_eq!(of(3, "How STRANGE"), AuthError);
    assert_eq!(of(3, "execution reverted"), ExecutionRevert);
}

#[test]
fn the_protocols_own_codes_are_decided_by_the_code_alone() {
    for (code, category) in [(-32700, ParseError), (-32600, InvalidRequest), (-32601, MethodNotFound)] {
        for message in ["", "too many requests", "execution reverted", "header not found"] {
            assert_eq!(of(code, message), category, "{code} {message}");
        }
    }
}

#[test]
fn a_code_is_of_its_category_where_the_message_says_nothing() {
    for (codes, category) in [
        (&[3, -32010, -32015, -32016, -38010, -38014, -38023][..], ExecutionRevert),
        (&[-32005, 30, -32046], RateLimit),
        (&[-32004, 4901], NetworkError),
        (&[-32003], ClientError),
        (&[-32002, -31001, -31002, 14, 23, -32001, -32050, -32099], ServerError),
        (&[-32000, 0, 1, 17, -1, -33000, i64::MIN, i64::MAX], UnclassifiedServerError),
        (&[-32602, -38021], InvalidParams),
        (&[-32603], InternalError),
        (&[4001], UserError),
        (&[4100], AuthError),
        (&[4200], MethodNotFound),
        (&[4900], ChainError),
        (&[26], BlockNotAvailable),
        (&[35, -32701, -38026], CapabilityViolation),
    ] {
        for code in codes {
            assert_eq!(of(*code, "hm"), category, "{code}");
        }
    }
}

#[test]
fn a_status_is_of_its_category_with_and_without_an_error_that_says_nothing() {
    for (status, alone, with_error) in [
        (200, InvalidResponse, UnclassifiedServerError),
        (302, InvalidResponse, UnclassifiedServerError),
        (400, ClientError, UnclassifiedServerError),
        (401, AuthError, AuthError),
        (403, AuthError, AuthError),
        (404, ClientError, UnclassifiedServerError),
        (408, Timeout, UnclassifiedServerError),
        (413, ClientError, UnclassifiedServerError),
        (429, RateLimit, RateLimit),
        (500, ServerError, ServerError),
        (503, ServerError, ServerError),
        (599, ServerError, ServerError),
    ] {
        let error = RpcError { code: -32000, message: "hm".to_owned(), data: None };
        assert_eq!((of_status(status), of_error(&[], status, &error)), (alone, with_error), "{status}");
    }
    let revert = RpcError { code: 3, message: "execution reverted".to_owned(), data: None };
    assert_eq!(of_error(&[], 500, &revert), ExecutionRevert, "some nodes send a revert with a status of 500");
}

#[test]
fn a_revert_is_known_by_its_data_wherever_the_provider_puts_it() {
    for data in [
        r#""0x08c379a0ff""#,
        r#""0x08C379A0ff""#,
        r#""0x4e487b71""#,
        r#""Reverted 0x08c379a0""#,
        r#"{"code":3,"data":"0x08c379a0ff"}"#,
    ] {
        let error = RpcError { code: -32000, message: "hm".to_owned(), data: Some(data.into()) };
        assert_eq!(of_error(&[], 200, &error), ExecutionRevert, "{data}");
    }
    let far = format!("\"{}0x08c379a0\"", "0".repeat(10_000));
    for data in [r#""0xff08c379a0""#, r#"{"see":"the manual"}"#, "null", &far] {
        let error = RpcError { code: -32000, message: "hm".to_owned(), data: Some(data.to_owned().into()) };
        assert_eq!(of_error(&[], 200, &error), UnclassifiedServerError, "{data}");
    }
}

#[test]
fn what_real_providers_say_is_taken_for_what_it_means() {
    let mut wrong = Vec::new();
    for line in include_str!("provider_messages.tsv").lines().filter(|line| !line.starts_with('#')) {
        let parts: Vec<&str> = line.splitn(4, '\t').collect();
        let [category, code, _provider, message] = parts[..] else { panic!("not four columns: {line}") };
        let (code, category) = (code.parse().unwrap(), category.parse::<ErrorCategory>().unwrap());
        let found = of(code, message);
        if found != category {
            wrong.push(format!("{code} {message}: {found}, not {category}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What follows from a category: it is returned at once, it surely was not executed, it counts against the circuit, the
/// decision's result, the attempt's outcome.
type Effects = (bool, bool, bool, CallResult, Outcome);

const EFFECTS: &[(ErrorCategory, Effects)] = {
    use {CallResult as R, Outcome as O};
    &[
        (ExecutionRevert, (true, false, false, R::ApplicationError, O::ApplicationError)),
        (InvalidParams, (true, false, false, R::ApplicationError, O::ApplicationError)),
        (InvalidRequest, (true, false, false, R::ApplicationError, O::ApplicationError)),
        (ParseError, (true, false, false, R::ApplicationError, O::ApplicationError)),
        (UserError, (true, false, false, R::ApplicationError, O::ApplicationError)),
        (MethodNotFound, (false, true, false, R::ApplicationError, O::ApplicationError)),
        (BlockNotAvailable, (false, false, false, R::Error, O::ApplicationError)),
        (RateLimit, (false, true, false, R::Error, O::CapacityRejection)),
        (RequiresArchival, (false, true, false, R::Error, O::ServiceFailure)),
        (CapabilityViolation, (false, true, false, R::Error, O::ServiceFailure)),
        (ClientError, (false, false, false, R::Error, O::ServiceFailure)),
        (UnclassifiedServerError, (false, false, false, R::Error, O::ServiceFailure)),
        (AuthError, (false, true, true, R::Error, O::ServiceFailure)),
        (ServerError, (false, false, true, R::Error, O::ServiceFailure)),
        (NetworkError, (false, false, true, R::Error, O::ServiceFailure)),
        (InternalError, (false, false, true, R::Error, O::ServiceFailure)),
        (InvalidResponse, (false, false, true, R::Error, O::ServiceFailure)),
        (ChainError, (false, false, true, R::Error, O::ServiceFailure)),
        (Timeout, (false, false, true, R::Error, O::Timeout)),
        (LocalCapacity, (false, false, false, R::Error, O::Cancelled)),
        (ErrorCategory::NoProviders, (false, false, false, R::Error, O::ServiceFailure)),
    ]
};

#[test]
fn each_category_has_the_effects_that_are_written_down() {
    for category in ErrorCategory::ALL {
        let (_, effects) = EFFECTS.iter().find(|(of, _)| of == category).unwrap_or_else(|| panic!("{category}"));
        let found = (
            is_the_calls_own(*category),
            surely_refused(*category),
            is_penalised(*category),
            result_of(*category),
            outcome_of(*category),
        );
        assert_eq!(&found, effects, "{category}");
    }
}
