//! What serde asks a [`Reader`] for piece by piece: pairs, items, and what a variant holds.

use serde::de::value::StringDeserializer;
use serde::de::{
    self, DeserializeSeed, EnumAccess, IntoDeserializer, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor,
};

use super::{Fault, Reader};
use crate::config::tree::Value;

pub(super) struct Pairs<'a> {
    pub(super) pairs: std::vec::IntoIter<(&'a str, Reader<'a>)>,
    pub(super) value: Option<Reader<'a>>,
}

impl<'de> MapAccess<'de> for Pairs<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let Some((key, reader)) = self.pairs.next() else { return Ok(None) };
        self.value = Some(reader);
        let key: StringDeserializer<Fault> = key.to_owned().into_deserializer();
        seed.deserialize(key).map(Some)
    }
    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Fault> {
        let Some(reader) = self.value.take() else {
            return Err(<Fault as de::Error>::custom("value before key"));
        };
        let (node, path) = (reader.node, reader.path.clone());
        seed.deserialize(reader).map_err(|fault| fault.at(node, &path))
    }
}

pub(super) struct Items<'a>(pub(super) std::vec::IntoIter<Reader<'a>>);

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let Some(reader) = self.0.next() else { return Ok(None) };
        let (node, path) = (reader.node, reader.path.clone());
        seed.deserialize(reader).map(Some).map_err(|fault| fault.at(node, &path))
    }
}

pub(super) struct Variant<'a> {
    pub(super) name: String,
    pub(super) content: Option<Reader<'a>>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Fault;
    type Variant = Content<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Content<'a>), Fault> {
        let name: StringDeserializer<Fault> = self.name.clone().into_deserializer();
        Ok((seed.deserialize(name)?, Content { name: self.name, content: self.content }))
    }
}

pub(super) struct Content<'a> {
    name: String,
    content: Option<Reader<'a>>,
}

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match self.content {
            None => Ok(()),
            Some(reader) if matches!(reader.node.value, Value::Null) => Ok(()),
            Some(_) => Err(<Fault as de::Error>::custom(format!("`{}` takes no settings", self.name))),
        }
    }
    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        match self.content {
            Some(reader) => {
                let (node, path) = (reader.node, reader.path.clone());
                seed.deserialize(reader).map_err(|fault| fault.at(node, &path))
            }
            None => Err(<Fault as de::Error>::custom(format!(
                "`{}` needs its settings: {}: {{…}}",
                self.name, self.name
            ))),
        }
    }
    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        Err(<Fault as de::Error>::invalid_type(Unexpected::TupleVariant, &visitor))
    }
    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        match self.content {
            Some(reader) => reader.map(Some(fields), visitor),
            None => Err(<Fault as de::Error>::custom(format!("`{}` needs its settings", self.name))),
        }
    }
}
