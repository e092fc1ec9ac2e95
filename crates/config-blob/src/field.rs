//! How each type of field is read, written and shown; structures are declared with `fields!`.

use crate::error::{Error, Problem};
use crate::reader::Reader;
use crate::walk::{Shown, Visitor};
use acrn_abi::vm_flags::VmFlags;
use acrn_abi::{Bdf, Gpa, Gsi, Hpa, PcpuId, VmId};

/// Takes encoded bytes.
pub(crate) type Sink<'s> = dyn FnMut(&[u8]) + 's;

/// A part of the body.
pub trait Field<'a>: Sized {
    #[doc(hidden)]
    #[expect(private_interfaces, reason = "only this crate reads")]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Error>;
    #[doc(hidden)]
    fn write(&self, sink: &mut Sink<'_>);
    #[doc(hidden)]
    fn walk(&self, name: &'static str, visitor: &mut dyn Visitor);
}

/// A field whose encoding always has the same size, so that it can be in a list.
pub trait Record: for<'r> Field<'r> + Copy {
    /// Size of the encoding, in bytes.
    const SIZE: usize;
}

macro_rules! scalar {
    ($($ty:ty, $int:ty, $get:expr, $make:expr, $shown:expr;)*) => {
        $(
            impl<'a> Field<'a> for $ty {
                #[expect(private_interfaces, reason = "only this crate reads")]
                fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
                    let number = <$int>::from_le_bytes(reader.array()?);
                    let make: fn($int) -> Option<$ty> = $make;
                    make(number).ok_or_else(|| reader.error(Problem::Value(number as u64)))
                }
                fn write(&self, sink: &mut Sink<'_>) {
                    let get: fn($ty) -> $int = $get;
                    sink(&get(*self).to_le_bytes());
                }
                fn walk(&self, name: &'static str, visitor: &mut dyn Visitor) {
                    let shown: fn($ty) -> Shown<'static> = $shown;
                    visitor.value(name, shown(*self));
                }
            }
            impl Record for $ty {
                const SIZE: usize = core::mem::size_of::<$int>();
            }
        )*
    };
}

scalar! {
    u8, u8, |v| v, Some, |v| Shown::Number(v.into());
    u16, u16, |v| v, Some, |v| Shown::Number(v.into());
    u32, u32, |v| v, Some, |v| Shown::Number(v.into());
    u64, u64, |v| v, Some, Shown::Number;
    i32, i32, |v| v, Some, |v| Shown::Signed(v.into());
    bool, u8, u8::from, |v| match v { 0 => Some(false), 1 => Some(true), _ => None }, Shown::Flag;
    Hpa, u64, |v| v.0, |v| Some(Hpa(v)), |v| Shown::Address(v.0);
    Gpa, u64, |v| v.0, |v| Some(Gpa(v)), |v| Shown::Address(v.0);
    Gsi, u32, |v| v.0, |v| Some(Gsi(v)), |v| Shown::Number(v.0.into());
    VmId, u16, |v| v.0, |v| Some(VmId(v)), |v| Shown::Number(v.0.into());
    PcpuId, u16, |v| v.0, |v| Some(PcpuId(v)), |v| Shown::Number(v.0.into());
    Bdf, u16, |v| v.0, |v| Some(Bdf(v)), Shown::Bdf;
    VmFlags, u64, |v| v.bits(), |v| VmFlags::from_bits(v).filter(|f| f.bits() < 1 << 15), |v| Shown::Bits(v.bits());
    crate::Features, u32, |v| v.bits(), crate::Features::from_bits, |v| Shown::Bits(v.bits().into());
}

impl<'a, T: Field<'a>, const N: usize> Field<'a> for [T; N]
where
    T: Copy + Default,
{
    #[expect(private_interfaces, reason = "only this crate reads")]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let mut values = [T::default(); N];
        for (index, value) in values.iter_mut().enumerate() {
            reader.number(index);
            *value = T::read(reader)?;
        }
        Ok(values)
    }
    fn write(&self, sink: &mut Sink<'_>) {
        self.iter().for_each(|value| value.write(sink));
    }
    fn walk(&self, name: &'static str, visitor: &mut dyn Visitor) {
        visitor.list(name, N);
        self.iter().for_each(|value| value.walk(name, visitor));
        visitor.end();
    }
}

impl<T: Record + Default, const N: usize> Record for [T; N] {
    const SIZE: usize = N * T::SIZE;
}

/// An optional record is a flag and the record, all zero when there is none.
impl<'a, T: Field<'a> + Copy + Default + PartialEq> Field<'a> for Option<T> {
    #[expect(private_interfaces, reason = "only this crate reads")]
    fn read(reader: &mut Reader<'a>) -> Result<Self, Error> {
        let there = bool::read(reader)?;
        let value = T::read(reader)?;
        match there {
            true => Ok(Some(value)),
            false if value == T::default() => Ok(None),
            false => Err(reader.error(Problem::Value(0))),
        }
    }
    fn write(&self, sink: &mut Sink<'_>) {
        self.is_some().write(sink);
        self.unwrap_or_default().write(sink);
    }
    fn walk(&self, name: &'static str, visitor: &mut dyn Visitor) {
        match self {
            Some(value) => value.walk(name, visitor),
            None => visitor.value(name, Shown::Nothing),
        }
    }
}

impl<T: Record + Default + PartialEq> Record for Option<T> {
    const SIZE: usize = 1 + T::SIZE;
}

/// Declares structures and how they are encoded: field by field. `record` is of fixed size,
/// `compound` borrows texts and lists.
macro_rules! fields {
    ($(#[$doc:meta])* record $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* } $($rest:tt)*) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $($(#[$field_doc])* pub $field: $ty,)* }
        $crate::field::fields!(@field [] $name [$($field: $ty,)*]);
        impl $crate::field::Record for $name {
            const SIZE: usize = 0 $(+ <$ty as $crate::field::Record>::SIZE)*;
        }
        $crate::field::fields!($($rest)*);
    };
    ($(#[$doc:meta])* compound $name:ident { $($(#[$field_doc:meta])* $field:ident: $ty:ty,)* } $($rest:tt)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct $name<'a> { $($(#[$field_doc])* pub $field: $ty,)* }
        $crate::field::fields!(@field [<'a>] $name [$($field: $ty,)*]);
        $crate::field::fields!($($rest)*);
    };
    (@field [$($life:tt)*] $name:ident [$($field:ident: $ty:ty,)*]) => {
        impl<'a> $crate::field::Field<'a> for $name $($life)* {
            #[expect(private_interfaces, reason = "only this crate reads")]
            fn read(reader: &mut $crate::reader::Reader<'a>) -> Result<Self, $crate::error::Error> {
                Ok(Self {
                    $($field: reader.within(stringify!($field), None, |r| {
                        <$ty as $crate::field::Field<'a>>::read(r)
                    })?,)*
                })
            }
            fn write(&self, sink: &mut $crate::field::Sink<'_>) {
                $($crate::field::Field::write(&self.$field, sink);)*
            }
            fn walk(&self, name: &'static str, visitor: &mut dyn $crate::walk::Visitor) {
                visitor.group(name);
                $($crate::field::Field::walk(&self.$field, stringify!($field), visitor);)*
                visitor.end();
            }
        }
    };
    () => {};
}
pub(crate) use fields;
