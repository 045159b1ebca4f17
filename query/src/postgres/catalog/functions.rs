//! Functions of Postgres that clients call in their questions about the catalog. Most are constants here: nobody owns
//! anything, everything is visible, nothing has a comment.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Builder, ListBuilder, StringArray, StringBuilder, UInt32Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field};
use datafusion::common::{Result, ScalarValue, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::prelude::SessionContext;

use super::super::session::{SERVER_VERSION, Session};
use super::base::{TYPES, oid, type_name};
use crate::ports::relations::{CATALOG, Relation, SCHEMA};

/// What is always the same.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Constant {
    Null,
    Truth(bool),
    Number(i32),
    Text(String),
    Texts(Vec<String>),
}

/// What a function does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Body {
    Constant(Constant),
    /// A setting by its name.
    Setting(Arc<[(String, String)]>),
    /// A name in quotes where it needs them.
    Quoted,
    /// The parts of a name with dots.
    Parts,
    /// A type's name by its object id.
    TypeName,
    /// A type's object id by its name.
    TypeId,
    /// A relation's object id by its name.
    RelationId(Arc<[String]>),
    /// A relation's name by its object id.
    RelationName(Arc<[String]>),
    /// The first, or the last, place of an array.
    Bound {
        upper: bool,
    },
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Function {
    name: &'static str,
    body: Body,
    signature: Signature,
}

/// Registers all of them.
pub(super) fn register(context: &SessionContext, relations: &[Relation], session: &Session) {
    let names: Arc<[String]> = relations.iter().map(|relation| relation.name.to_owned()).collect();
    let settings = session.all().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let owned = [
        ("current_setting", Body::Setting(settings)),
        ("quote_ident", Body::Quoted),
        ("parse_ident", Body::Parts),
        ("format_type", Body::TypeName),
        ("to_regtype", Body::TypeId),
        ("to_regclass", Body::RelationId(Arc::clone(&names))),
        ("relation_name", Body::RelationName(names)),
        ("array_lower", Body::Bound { upper: false }),
        ("array_upper", Body::Bound { upper: true }),
    ];
    let constants = constants(session).into_iter().map(|(name, constant)| (name, Body::Constant(constant)));
    for (name, body) in owned.into_iter().chain(constants) {
        let any = TypeSignature::OneOf(vec![TypeSignature::Nullary, TypeSignature::VariadicAny]);
        let function = Function { name, body, signature: Signature::new(any, Volatility::Stable) };
        context.register_udf(ScalarUDF::from(function));
    }
}

fn constants(session: &Session) -> Vec<(&'static str, Constant)> {
    let text = |text: &str| Constant::Text(text.to_owned());
    let user = session.user();
    let mut all = vec![
        ("version", Constant::Text(format!("PostgreSQL {SERVER_VERSION} (Lariat {})", env!("CARGO_PKG_VERSION")))),
        ("current_database", text(CATALOG)),
        ("current_catalog", text(CATALOG)),
        ("current_schema", text(SCHEMA)),
        ("current_schemas", Constant::Texts(vec![super::PG_CATALOG.to_owned(), SCHEMA.to_owned()])),
        ("pg_get_userbyid", text(CATALOG)),
        ("pg_encoding_to_char", text("UTF8")),
        ("pg_client_encoding", text("UTF8")),
        ("pg_size_pretty", text("0 bytes")),
        ("pg_backend_pid", Constant::Number(0)),
        ("pg_is_in_recovery", Constant::Truth(false)),
        ("pg_relation_is_publishable", Constant::Truth(false)),
    ];
    for name in ["user", "current_user", "current_role", "session_user"] {
        all.push((name, text(&user)));
    }
    for name in [
        "has_any_column_privilege",
        "has_column_privilege",
        "has_database_privilege",
        "has_function_privilege",
        "has_schema_privilege",
        "has_table_privilege",
        "pg_collation_is_visible",
        "pg_function_is_visible",
        "pg_table_is_visible",
        "pg_type_is_visible",
    ] {
        all.push((name, Constant::Truth(true)));
    }
    for name in [
        "col_description",
        "inet_client_addr",
        "inet_server_addr",
        "obj_description",
        "pg_get_constraintdef",
        "pg_get_expr",
        "pg_get_function_identity_arguments",
        "pg_get_function_result",
        "pg_get_indexdef",
        "pg_get_partkeydef",
        "pg_get_ruledef",
        "pg_get_serial_sequence",
        "pg_get_triggerdef",
        "pg_get_viewdef",
        "pg_relation_size",
        "pg_table_size",
        "pg_total_relation_size",
        "shobj_description",
    ] {
        all.push((name, Constant::Null));
    }
    all
}

impl ScalarUDFImpl for Function {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(match &self.body {
            Body::Constant(Constant::Truth(_)) => DataType::Boolean,
            Body::Constant(Constant::Number(_)) | Body::Bound { .. } => DataType::Int32,
            Body::Constant(Constant::Texts(_)) | Body::Parts => list_of_texts(),
            Body::TypeId | Body::RelationId(_) => DataType::UInt32,
            _ => DataType::Utf8,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        if let Body::Constant(constant) = &self.body {
            return Ok(ColumnarValue::Scalar(scalar(constant)));
        }
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        let Some(first) = columns.first() else { return exec_err!("{} takes an argument", self.name) };
        let result: ArrayRef = match &self.body {
            Body::Bound { upper } => bounds(first, *upper),
            Body::Parts => parts(&texts(first)?),
            Body::TypeId => numbers(&texts(first)?, type_id),
            Body::RelationId(names) => numbers(&texts(first)?, |name| relation_id(names, name)),
            Body::TypeName => mapped(&texts(first)?, |id| {
                Some(id.parse().ok().and_then(type_name).unwrap_or_else(|| "???".to_owned()))
            }),
            Body::RelationName(names) => mapped(&texts(first)?, |id| {
                let place = |place: &usize| oid(*place).to_string() == id;
                Some((0..names.len()).find(place).map_or_else(|| id.to_owned(), |place| names[place].clone()))
            }),
            Body::Quoted => mapped(&texts(first)?, |name| Some(quoted(name))),
            Body::Setting(settings) => {
                let lenient = columns.len() > 1;
                let names = texts(first)?;
                for name in names.iter().flatten() {
                    if !lenient && setting(settings, name).is_none() {
                        return exec_err!("there is no setting `{name}`");
                    }
                }
                mapped(&names, |name| setting(settings, name))
            }
            Body::Constant(_) => return exec_err!("a constant has been told already"),
        };
        Ok(ColumnarValue::Array(result))
    }
}

fn list_of_texts() -> DataType {
    DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)))
}

fn scalar(constant: &Constant) -> ScalarValue {
    match constant {
        Constant::Null => ScalarValue::Utf8(None),
        Constant::Truth(value) => ScalarValue::Boolean(Some(*value)),
        Constant::Number(value) => ScalarValue::Int32(Some(*value)),
        Constant::Text(value) => ScalarValue::Utf8(Some(value.clone())),
        Constant::Texts(values) => {
            let values: Vec<_> = values.iter().map(|value| ScalarValue::Utf8(Some(value.clone()))).collect();
            ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::Utf8))
        }
    }
}

fn texts(column: &ArrayRef) -> Result<StringArray> {
    Ok(cast(column, &DataType::Utf8)?.as_string::<i32>().clone())
}

fn mapped(column: &StringArray, of: impl Fn(&str) -> Option<String>) -> ArrayRef {
    Arc::new(column.iter().map(|value| value.and_then(&of)).collect::<StringArray>())
}

fn numbers(column: &StringArray, of: impl Fn(&str) -> Option<u32>) -> ArrayRef {
    Arc::new(column.iter().map(|value| value.and_then(&of)).collect::<UInt32Array>())
}

fn setting(settings: &[(String, String)], name: &str) -> Option<String> {
    settings.iter().find(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
}

/// A number is an object id already; a name may have a schema and quotes.
fn relation_id(names: &[String], text: &str) -> Option<u32> {
    let wanted = split(text).pop()?;
    text.parse().ok().or_else(|| names.iter().position(|name| *name == wanted).map(oid))
}

fn type_id(text: &str) -> Option<u32> {
    let wanted = split(text).pop()?;
    let of = TYPES.iter().find(|(of, _, _, name)| of.name() == wanted || *name == text);
    text.parse().ok().or_else(|| of.map(|(of, ..)| of.oid()))
}

fn quoted(name: &str) -> String {
    let plain = name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\"\"")) }
}

/// The parts of a name: in lower case, those in quotes as they are.
fn split(name: &str) -> Vec<String> {
    let (mut parts, mut part, mut inside) = (Vec::new(), String::new(), false);
    for character in name.chars() {
        match character {
            '"' => inside = !inside,
            '.' if !inside => parts.push(std::mem::take(&mut part)),
            other if inside => part.push(other),
            other => part.extend(other.to_lowercase()),
        }
    }
    parts.push(part);
    parts
}

fn parts(column: &StringArray) -> ArrayRef {
    let mut builder = ListBuilder::new(StringBuilder::new());
    for name in column {
        match name {
            Some(name) => {
                split(name).iter().for_each(|part| builder.values().append_value(part));
                builder.append(true);
            }
            None => builder.append(false),
        }
    }
    Arc::new(builder.finish())
}

fn bounds(column: &ArrayRef, upper: bool) -> ArrayRef {
    let mut builder = Int32Builder::new();
    for row in 0..column.len() {
        let length = match column.data_type() {
            DataType::List(_) if column.is_valid(row) => column.as_list::<i32>().value_length(row),
            _ => 0,
        };
        builder.append_option((length > 0).then_some(if upper { length } else { 1 }));
    }
    Arc::new(builder.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_they_need_it_and_split_at_their_dots() {
        assert_eq!(["spans", "Spans", "a\"b", "1a"].map(quoted), ["spans", "\"Spans\"", "\"a\"\"b\"", "\"1a\""]);
        assert_eq!(split("public.\"My.Table\""), ["public", "My.Table"]);
    }

    #[test]
    fn relations_and_types_are_found_by_name_and_by_number() {
        let names = ["logs".to_owned(), "spans".to_owned()];
        assert_eq!(relation_id(&names, "public.spans"), Some(oid(1)));
        assert_eq!(relation_id(&names, "16384"), Some(16_384));
        assert_eq!(relation_id(&names, "nope"), None);
        assert_eq!(type_id("int8"), type_id("bigint"));
    }
}
