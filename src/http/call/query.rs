//! The query, read strictly: what is not known or not understood is told and not passed over.

use std::fmt;
use std::str::FromStr;

use actors::model::Faults;
use percent_encoding::percent_decode_str;
use serde::de::value::{MapAccessDeserializer, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess,
    VariantAccess, Visitor,
};
use serde::{Deserialize, de, forward_to_deserialize_any};

use crate::problem::{ApiError, Code};

/// Entries of a list in the query.
const LIST_MAX: usize = 200;
const UNKNOWN: &str = "is not known here";

/// How many entries a page shall have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) u16);

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let limit = u16::deserialize(deserializer)
            .ok()
            .filter(|it| (1..=200).contains(it));
        limit
            .map(Self)
            .ok_or_else(|| de::Error::custom("must be a number from 1 to 200"))
    }
}

impl utoipa::PartialSchema for Limit {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        let number = ObjectBuilder::new().schema_type(Type::Integer);
        number
            .minimum(Some(1))
            .maximum(Some(200))
            .default(Some(50.into()))
            .into()
    }
}

impl utoipa::ToSchema for Limit {}

/// A list in the query: entries between commas, or the parameter repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Csv<T>(pub(crate) Vec<T>);

impl<T> Default for Csv<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Csv<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::deserialize(deserializer).map(Self)
    }
}

impl<T: utoipa::PartialSchema> utoipa::PartialSchema for Csv<T> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::schema::ArrayBuilder::new()
            .items(T::schema())
            .into()
    }
}

impl<T: utoipa::ToSchema> utoipa::ToSchema for Csv<T> {
    fn name() -> std::borrow::Cow<'static, str> {
        format!("ListOf{}", T::name()).into()
    }
}

/// Reads a query. Members of `T` are options, numbers, texts, anything that is read from a text, or a [`Csv`].
///
/// # Errors
///
/// `invalid_json` where it can't be decoded; `invalid` for unknown names and wrong values.
pub(crate) fn read<T: DeserializeOwned>(query: Option<&str>) -> Result<T, ApiError> {
    let pairs = decode(query.unwrap_or_default())?;
    T::deserialize(MapAccessDeserializer::new(Parameters::of(&pairs))).map_err(|wrong| {
        let pointer = wrong
            .name
            .map_or_else(|| "?".to_owned(), |it| format!("?{it}"));
        // A cursor is opaque: what is wrong with one is always the same.
        if pointer == "?cursor" && wrong.detail != UNKNOWN {
            ApiError::new(Code::InvalidCursor)
        } else {
            ApiError::invalid(Faults::one(pointer, wrong.detail))
        }
    })
}

fn decode(query: &str) -> Result<Vec<(String, String)>, ApiError> {
    let unreadable = || ApiError::new(Code::InvalidJson).detail("The query can't be decoded.");
    let pairs = query.split('&').filter(|it| !it.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode_component(name)?, decode_component(value)?))
        })
        .collect::<Option<_>>()
        .ok_or_else(unreadable)
}

/// Decodes `+` and `%xx`; `None` where that can't be done.
pub(crate) fn decode_component(text: &str) -> Option<String> {
    let whole = text.split('%').skip(1).all(|it| {
        let mut digits = it.bytes();
        digits.next().is_some_and(|it| it.is_ascii_hexdigit())
            && digits.next().is_some_and(|it| it.is_ascii_hexdigit())
    });
    if !whole {
        return None;
    }
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced)
        .decode_utf8()
        .ok()
        .map(std::borrow::Cow::into_owned)
}

/// What is wrong, and in which parameter.
#[derive(Debug)]
struct Wrong {
    name: Option<String>,
    detail: String,
}

impl Wrong {
    fn of(name: &str, detail: &str) -> Self {
        Self {
            name: Some(name.to_owned()),
            detail: detail.to_owned(),
        }
    }

    fn within(mut self, name: &str) -> Self {
        self.name.get_or_insert_with(|| name.to_owned());
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Wrong {}

impl de::Error for Wrong {
    fn custom<T: fmt::Display>(detail: T) -> Self {
        Self {
            name: None,
            detail: detail.to_string(),
        }
    }

    fn unknown_field(field: &str, _: &'static [&'static str]) -> Self {
        Self::of(field, UNKNOWN)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::of(field, "is missing")
    }
}

/// The parameters, each name once with all its values.
struct Parameters<'a> {
    grouped: std::vec::IntoIter<(&'a str, Vec<&'a str>)>,
    values: Option<(&'a str, Vec<&'a str>)>,
}

impl<'a> Parameters<'a> {
    fn of(pairs: &'a [(String, String)]) -> Self {
        let mut grouped: Vec<(&str, Vec<&str>)> = Vec::new();
        for (name, value) in pairs {
            match grouped.iter_mut().find(|(it, _)| it == name) {
                Some((_, values)) => values.push(value),
                None => grouped.push((name, vec![value])),
            }
        }
        Self {
            grouped: grouped.into_iter(),
            values: None,
        }
    }
}

impl<'de> MapAccess<'de> for Parameters<'_> {
    type Error = Wrong;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Wrong> {
        let Some((name, values)) = self.grouped.next() else {
            return Ok(None);
        };
        self.values = Some((name, values));
        seed.deserialize(StrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Wrong> {
        let (name, values) = self
            .values
            .take()
            .ok_or_else(|| Wrong::of("", "is missing"))?;
        seed.deserialize(Values(&values))
            .map_err(|it| it.within(name))
    }
}

/// All values of one name.
struct Values<'a>(&'a [&'a str]);

impl<'a> Values<'a> {
    fn one(&self) -> Result<&'a str, Wrong> {
        match self.0 {
            [value] => Ok(value),
            _ => Err(de::Error::custom("is given more than once")),
        }
    }

    fn parsed<T: FromStr>(&self, detail: &str) -> Result<T, Wrong> {
        self.one()?.parse().map_err(|_| de::Error::custom(detail))
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident,)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
                visitor.$visit(self.parsed("must be a number in range")?)
            }
        )*
    };
}

impl<'de> Deserializer<'de> for Values<'_> {
    type Error = Wrong;

    numbers! {
        deserialize_u8 visit_u8,
        deserialize_u16 visit_u16,
        deserialize_u32 visit_u32,
        deserialize_u64 visit_u64,
        deserialize_i8 visit_i8,
        deserialize_i16 visit_i16,
        deserialize_i32 visit_i32,
        deserialize_i64 visit_i64,
        deserialize_f32 visit_f32,
        deserialize_f64 visit_f64,
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_str(self.one()?)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_bool(self.parsed("must be true or false")?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Wrong> {
        let entries: Vec<&str> = self
            .0
            .iter()
            .flat_map(|it| it.split(','))
            .map(str::trim)
            .filter(|it| !it.is_empty())
            .collect();
        if LIST_MAX < entries.len() {
            return Err(de::Error::custom("must have at most 200 entries"));
        }
        visitor.visit_seq(Entries(entries.into_iter()))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Wrong> {
        visitor.visit_enum(Word(self.one()?))
    }

    /// What nobody reads is not known.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Wrong> {
        Err(de::Error::custom(UNKNOWN))
    }

    forward_to_deserialize_any! {
        i128 u128 char str string bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier
    }
}

struct Entries<'a>(std::vec::IntoIter<&'a str>);

impl<'de> SeqAccess<'de> for Entries<'_> {
    type Error = Wrong;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Wrong> {
        self.0
            .next()
            .map(|it| seed.deserialize(Values(&[it])))
            .transpose()
    }
}

/// The name of a variant without content.
struct Word<'a>(&'a str);

impl<'de> EnumAccess<'de> for Word<'_> {
    type Error = Wrong;
    type Variant = Bare;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Bare), Wrong> {
        seed.deserialize(StrDeserializer::new(self.0))
            .map(|it| (it, Bare))
    }
}

struct Bare;

impl<'de> VariantAccess<'de> for Bare {
    type Error = Wrong;

    fn unit_variant(self) -> Result<(), Wrong> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, _: T) -> Result<T::Value, Wrong> {
        Err(de::Error::custom("can't be given in a query"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Wrong> {
        Err(de::Error::custom("can't be given in a query"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Wrong> {
        Err(de::Error::custom("can't be given in a query"))
    }
}

#[cfg(test)]
mod tests {
    use actors::model::Direction;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Wanted {
        limit: Limit,
        q: Option<String>,
        direction: Option<Direction>,
        devices: Csv<u16>,
        unread: Option<bool>,
        cursor: Option<u8>,
    }

    fn wanted(query: &str) -> Result<Wanted, (Code, String)> {
        read(Some(query)).map_err(|error| {
            let response = axum::response::IntoResponse::into_response(error);
            let response = crate::problem::finish(response, "r");
            let status = response.status();
            let body = futures_util::FutureExt::now_or_never(axum::body::to_bytes(
                response.into_body(),
                10_000,
            ));
            let body: serde_json::Value = serde_json::from_slice(&body.unwrap().unwrap()).unwrap();
            assert_eq!(status.as_u16(), body["status"]);
            let pointer = body["errors"][0]["pointer"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            (
                Code::named(body["code"].as_str().unwrap()).unwrap(),
                pointer,
            )
        })
    }

    #[test]
    fn what_is_given_is_read() {
        assert_eq!(wanted(""), Ok(Wanted::default()));
        let read =
            wanted("limit=200&q=a%20b+c%40d&direction=in&devices=1,2&devices=3&unread=true&")
                .unwrap();
        let expected = Wanted {
            limit: Limit(200),
            q: Some("a b c@d".to_owned()),
            direction: Some(Direction::In),
            devices: Csv(vec![1, 2, 3]),
            unread: Some(true),
            cursor: None,
        };
        assert_eq!(read, expected);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, pointer) in [
            ("limit=0", "?limit"),
            ("limit=201", "?limit"),
            ("limit=x", "?limit"),
            ("limit=-1", "?limit"),
            ("limit=1&limit=1", "?limit"),
            ("limt=5", "?limt"),
            ("direction=up", "?direction"),
            ("devices=1,x", "?devices"),
            ("unread=yes", "?unread"),
            ("Q=a", "?Q"),
        ] {
            assert_eq!(
                wanted(query),
                Err((Code::Invalid, pointer.to_owned())),
                "{query}"
            );
        }
        assert_eq!(
            wanted("cursor=abc"),
            Err((Code::InvalidCursor, String::new()))
        );
    }

    #[test]
    fn what_cannot_be_decoded_is_400() {
        for query in ["q=%ff", "q=%", "q=%2", "q=%zz", "%c3=1"] {
            assert_eq!(
                wanted(query),
                Err((Code::InvalidJson, String::new())),
                "{query}"
            );
        }
    }

    #[test]
    fn a_list_is_bounded() {
        let query = format!("devices={}", vec!["1"; LIST_MAX + 1].join(","));
        assert_eq!(wanted(&query), Err((Code::Invalid, "?devices".to_owned())));
    }
}
