import java.math.*;
import java.time.*;
import java.util.*;
import org.apache.flink.api.common.serialization.SerializerConfigImpl;
import org.apache.flink.api.common.typeinfo.*;
import org.apache.flink.api.common.typeutils.*;
import org.apache.flink.api.common.typeutils.base.*;
import org.apache.flink.api.common.typeutils.base.array.*;
import org.apache.flink.api.java.tuple.*;
import org.apache.flink.api.java.typeutils.*;
import org.apache.flink.api.java.typeutils.runtime.*;
import org.apache.flink.core.memory.*;
import org.apache.flink.runtime.state.*;
import org.apache.flink.streaming.api.operators.*;
import org.apache.flink.streaming.api.windowing.windows.*;
import org.apache.flink.types.*;

/** Prints, for every serializer: its name, its snapshot, and values with their bytes. */
public class Types {
    public enum Colour { RED, GREEN, BLUE }
    public static class Order {
        public long id; public String name; public Integer count; public List<String> tags; public Colour colour; public Inner inner;
        public Order() {}
    }
    public static class Inner { public double x; public Map<String, Long> m; public Inner() {} }
    public static class Special extends Inner { public int extra; public Special() {} }
    public static class Strange { private final Object o; Strange(Object o) { this.o = o; } }

    static String hex(byte[] b) { StringBuilder s = new StringBuilder(); for (byte x : b) s.append(String.format("%02x", x)); return s.toString(); }

    @SafeVarargs
    static <T> void show(String name, TypeSerializer<T> ser, T... values) throws Exception {
        DataOutputSerializer out = new DataOutputSerializer(64);
        TypeSerializerSnapshot.writeVersionedSnapshot(out, ser.snapshotConfiguration());
        StringBuilder s = new StringBuilder("{\"name\":\"" + name + "\",\"snapshot\":\"" + hex(out.getCopyOfBuffer()) + "\",\"values\":[");
        boolean first = true;
        for (T v : values) {
            DataOutputSerializer o = new DataOutputSerializer(64);
            ser.serialize(v, o);
            s.append(first ? "" : ",").append("\"" + hex(o.getCopyOfBuffer()) + "\""); first = false;
        }
        System.out.println(s + "]}");
    }
    static <T> TypeSerializer<T> of(TypeInformation<T> t) { return t.createSerializer(new SerializerConfigImpl()); }

    public static void main(String[] a) throws Exception {
        show("string", StringSerializer.INSTANCE, "", "abc", "häß\0\uD83D\uDE00€", null, "x".repeat(200));
        show("long", LongSerializer.INSTANCE, 0L, -1L, Long.MAX_VALUE);
        show("int", IntSerializer.INSTANCE, 0, -1, Integer.MIN_VALUE);
        show("short", ShortSerializer.INSTANCE, (short) -2);
        show("byte", ByteSerializer.INSTANCE, (byte) -2);
        show("char", CharSerializer.INSTANCE, 'x', '€');
        show("boolean", BooleanSerializer.INSTANCE, true, false);
        show("double", DoubleSerializer.INSTANCE, 1.5, -0.0, Double.POSITIVE_INFINITY);
        show("float", FloatSerializer.INSTANCE, 1.5f);
        show("bytes", BytePrimitiveArraySerializer.INSTANCE, new byte[0], new byte[] {1, 2, -1});
        show("void-namespace", VoidNamespaceSerializer.INSTANCE, VoidNamespace.INSTANCE);
        show("void", VoidSerializer.INSTANCE, (Void) null);
        show("global-window", new GlobalWindow.Serializer(), GlobalWindow.get());
        show("time-window", new TimeWindow.Serializer(), new TimeWindow(-5, 600000));
        show("big-int", BigIntSerializer.INSTANCE, null, BigInteger.ZERO, BigInteger.ONE, BigInteger.TEN, BigInteger.valueOf(-129), BigInteger.ONE.shiftLeft(200), new BigInteger("1"));
        show("big-decimal", BigDecSerializer.INSTANCE, null, BigDecimal.ZERO, new BigDecimal("-1.50"), new BigDecimal("1E+30"), BigDecimal.TEN, new BigDecimal("12345678901234567890.0123456789"));
        show("instant", InstantSerializer.INSTANCE, null, Instant.EPOCH, Instant.parse("2026-11-23T15:00:00.123456789Z"), Instant.MIN, Instant.MAX, Instant.parse("1969-12-31T23:59:59.5Z"));
        show("local-date", LocalDateSerializer.INSTANCE, null, LocalDate.of(2026, 11, 23), LocalDate.of(-44, 3, 15), LocalDate.MAX);
        show("local-time", LocalTimeSerializer.INSTANCE, null, LocalTime.MIDNIGHT, LocalTime.MAX);
        show("local-date-time", LocalDateTimeSerializer.INSTANCE, null, LocalDateTime.of(2026, 11, 23, 15, 0, 1, 5000));
        show("date", DateSerializer.INSTANCE, null, new Date(0), new Date(-1));
        show("sql-date", SqlDateSerializer.INSTANCE, null, new java.sql.Date(86400000));
        show("sql-time", SqlTimeSerializer.INSTANCE, null, new java.sql.Time(1000));
        java.sql.Timestamp ts = new java.sql.Timestamp(-1); ts.setNanos(999999999);
        show("timestamp", SqlTimestampSerializer.INSTANCE, null, new java.sql.Timestamp(1500), ts);
        show("list", new ListSerializer<>(LongSerializer.INSTANCE), List.of(), List.of(1L, 2L));
        show("set", new SetSerializer<>(StringSerializer.INSTANCE), Set.of("a"));
        Map<String, Long> m = new LinkedHashMap<>(); m.put("a", 1L); m.put("b", null);
        show("map", new MapSerializer<>(StringSerializer.INSTANCE, LongSerializer.INSTANCE), Map.of(), m);
        show("tuple", of(new TupleTypeInfo<Tuple3<String, Integer, Boolean>>(BasicTypeInfo.STRING_TYPE_INFO, BasicTypeInfo.INT_TYPE_INFO, BasicTypeInfo.BOOLEAN_TYPE_INFO)), Tuple3.of("x", 1, true), Tuple3.of(null, -1, false));
        Order o = new Order(); o.id = 7; o.name = "n"; o.tags = List.of("a", "b"); o.colour = Colour.BLUE; o.inner = new Inner(); o.inner.x = 2.5; o.inner.m = m;
        show("pojo", of(TypeInformation.of(Order.class)), o, new Order(), null);
        Order sub = new Order(); sub.inner = new Special();
        show("pojo-subclass", of(TypeInformation.of(Order.class)), sub);
        SerializerConfigImpl reg = new SerializerConfigImpl(); reg.registerPojoType(Special.class);
        show("pojo-registered", TypeInformation.of(Inner.class).createSerializer(reg), new Inner(), new Special());
        show("row", of(new RowTypeInfo(BasicTypeInfo.STRING_TYPE_INFO, BasicTypeInfo.LONG_TYPE_INFO)), Row.of("a", 1L), Row.of(null, 2L), Row.ofKind(RowKind.UPDATE_BEFORE, "b", null), Row.ofKind(RowKind.UPDATE_AFTER, "b", null), Row.ofKind(RowKind.DELETE, "b", null));
        TypeInformation<?>[] many = new TypeInformation<?>[9]; Arrays.fill(many, BasicTypeInfo.INT_TYPE_INFO);
        Row wide = Row.withNames(); for (int i = 0; i < 9; i++) wide.setField("c" + i, i % 2 == 0 ? i : null);
        show("row-named", of(new RowTypeInfo(many, new String[] {"c0","c1","c2","c3","c4","c5","c6","c7","c8"})), wide);
        show("timer", new TimerSerializer<>(StringSerializer.INSTANCE, VoidNamespaceSerializer.INSTANCE), new TimerHeapInternalTimer<>(1000, "k", VoidNamespace.INSTANCE), new TimerHeapInternalTimer<>(-1, "k", VoidNamespace.INSTANCE));
        show("either", of(new EitherTypeInfo<>(BasicTypeInfo.INT_TYPE_INFO, BasicTypeInfo.STRING_TYPE_INFO)), Either.Left(5), Either.Right("r"));
        show("enum", of(new EnumTypeInfo<>(Colour.class)), Colour.RED, Colour.BLUE);
        show("int-array", IntPrimitiveArraySerializer.INSTANCE, new int[] {1, -1});
        show("long-array", LongPrimitiveArraySerializer.INSTANCE, new long[] {1});
        show("short-array", ShortPrimitiveArraySerializer.INSTANCE, new short[] {1});
        show("double-array", DoublePrimitiveArraySerializer.INSTANCE, new double[] {1});
        show("float-array", FloatPrimitiveArraySerializer.INSTANCE, new float[] {1});
        show("boolean-array", BooleanPrimitiveArraySerializer.INSTANCE, new boolean[] {true});
        show("char-array", CharPrimitiveArraySerializer.INSTANCE, new char[] {'a'});
        show("string-array", StringArraySerializer.INSTANCE, new String[] {"a", null});
        show("object-array", of(BasicArrayTypeInfo.LONG_ARRAY_TYPE_INFO), new Long[] {1L, null});
        show("nullable", NullableSerializer.wrap(LongSerializer.INSTANCE, true), 5L, null);
        show("nullable-short", NullableSerializer.wrap(StringSerializer.INSTANCE, false), "a", null);
        show("long-value", LongValueSerializer.INSTANCE, new LongValue(5));
        show("int-value", IntValueSerializer.INSTANCE, new IntValue(5));
        show("string-value", StringValueSerializer.INSTANCE, new StringValue("a"));
        show("tuple0", Tuple0Serializer.INSTANCE, Tuple0.INSTANCE);
        show("kryo", of(new GenericTypeInfo<>(Strange.class)));
        show("list-of-kryo", new ListSerializer<>(of(new GenericTypeInfo<>(Strange.class))));
        show("list-type", of(new ListTypeInfo<>(BasicTypeInfo.STRING_TYPE_INFO)), Arrays.asList("a", null));
        show("map-type", of(new MapTypeInfo<>(BasicTypeInfo.STRING_TYPE_INFO, BasicTypeInfo.LONG_TYPE_INFO)), m);
        show("nullable-list", of(new NullableListTypeInfo<>(BasicTypeInfo.LONG_TYPE_INFO)), Arrays.asList(1L, null));
        show("nullable-map", of(new NullableMapTypeInfo<>(BasicTypeInfo.STRING_TYPE_INFO, BasicTypeInfo.LONG_TYPE_INFO)), m);
        show("nullable-set", of(new NullableSetTypeInfo<>(BasicTypeInfo.STRING_TYPE_INFO)), Set.of("a"));
        Class<?> ttl = Class.forName("org.apache.flink.runtime.state.ttl.TtlStateFactory$TtlSerializer");
        var c = ttl.getDeclaredConstructor(TypeSerializer.class, TypeSerializer.class); c.setAccessible(true);
        TypeSerializer<Object> ts2 = (TypeSerializer<Object>) c.newInstance(LongSerializer.INSTANCE, StringSerializer.INSTANCE);
        Class<?> tv = Class.forName("org.apache.flink.runtime.state.ttl.TtlValue");
        var vc = tv.getDeclaredConstructor(Object.class, long.class); vc.setAccessible(true);
        show("ttl", ts2, vc.newInstance("v", 1000L));
    }
}
