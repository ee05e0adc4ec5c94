import java.math.*;
import java.nio.file.*;
import java.time.*;
import java.util.*;
import org.apache.flink.api.common.eventtime.*;
import org.apache.flink.api.common.functions.*;
import org.apache.flink.api.common.state.*;
import org.apache.flink.api.common.typeinfo.*;
import org.apache.flink.api.connector.source.lib.NumberSequenceSource;
import org.apache.flink.api.java.functions.KeySelector;
import org.apache.flink.api.java.tuple.*;
import org.apache.flink.api.java.typeutils.*;
import org.apache.flink.configuration.*;
import org.apache.flink.core.execution.*;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.streaming.api.datastream.*;
import org.apache.flink.streaming.api.environment.*;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.windowing.assigners.*;
import org.apache.flink.streaming.api.functions.windowing.*;
import org.apache.flink.streaming.api.windowing.windows.*;
import org.apache.flink.types.Row;
import org.apache.flink.util.Collector;

/** A job with state of many types: numbers 0 to LIMIT-1, keyed by a tuple, a POJO and a long. Args: backend, folder, key=value settings. */
public class Zoo {
    static final long LIMIT = 120;
    public enum Colour { RED, GREEN, BLUE }
    public static class Animal {
        public String name; public long legs; public List<String> toys; public Colour colour; public Double weight;
        public Animal() {}
    }
    public static class Id {
        public int n; public String s;
        public Id() {}
        public int hashCode() { return n; }
        public boolean equals(Object o) { return o instanceof Id && ((Id) o).n == n; }
    }
    public static class Strange { public final Object what; public Strange(Object o) { what = o; } }

    public static class Keeper extends KeyedProcessFunction<Tuple2<String, Integer>, Long, String> {
        ValueState<Animal> animal; ListState<Tuple2<Integer, String>> pairs; MapState<Integer, Instant> times; ValueState<BigDecimal> sum;
        ReducingState<Long> reduced; AggregatingState<Long, Long> mean; ValueState<String> mortal; ListState<Row> rows; ValueState<LocalDate> day;
        ValueState<Colour> colour; MapState<String, List<String>> lists; ValueState<byte[]> raw; MapState<Long, Boolean> nulls; ValueState<Strange> strange;
        ValueState<int[]> ints;
        @Override public void open(OpenContext c) {
            RuntimeContext r = getRuntimeContext();
            animal = r.getState(new ValueStateDescriptor<>("animal", TypeInformation.of(Animal.class)));
            pairs = r.getListState(new ListStateDescriptor<>("pairs", Types.TUPLE(Types.INT, Types.STRING)));
            times = r.getMapState(new MapStateDescriptor<>("times", Types.INT, Types.INSTANT));
            sum = r.getState(new ValueStateDescriptor<>("sum", Types.BIG_DEC));
            reduced = r.getReducingState(new ReducingStateDescriptor<>("reduced", Long::sum, Types.LONG));
            mean = r.getAggregatingState(new AggregatingStateDescriptor<>("mean", new Mean(), Types.TUPLE(Types.LONG, Types.LONG)));
            ValueStateDescriptor<String> m = new ValueStateDescriptor<>("mortal", Types.STRING);
            m.enableTimeToLive(StateTtlConfig.newBuilder(Duration.ofDays(10000)).build()); mortal = r.getState(m);
            rows = r.getListState(new ListStateDescriptor<>("rows", Types.ROW(Types.STRING, Types.LONG)));
            day = r.getState(new ValueStateDescriptor<>("day", Types.LOCAL_DATE));
            colour = r.getState(new ValueStateDescriptor<>("colour", Types.ENUM(Colour.class)));
            lists = r.getMapState(new MapStateDescriptor<>("lists", Types.STRING, Types.LIST(Types.STRING)));
            raw = r.getState(new ValueStateDescriptor<>("raw", PrimitiveArrayTypeInfo.BYTE_PRIMITIVE_ARRAY_TYPE_INFO));
            nulls = r.getMapState(new MapStateDescriptor<>("nulls", Types.LONG, Types.BOOLEAN));
            ints = r.getState(new ValueStateDescriptor<>("ints", PrimitiveArrayTypeInfo.INT_PRIMITIVE_ARRAY_TYPE_INFO));
            if (KRYO) strange = r.getState(new ValueStateDescriptor<>("strange", new GenericTypeInfo<>(Strange.class)));
        }
        @Override public void processElement(Long n, Context c, Collector<String> o) throws Exception {
            Animal a = new Animal(); a.name = "animal-" + n; a.legs = n; a.toys = List.of("ball", "toy-" + n); a.colour = Colour.values()[(int) (n % 3)]; a.weight = n % 2 == 0 ? n / 4.0 : null;
            animal.update(a);
            pairs.add(Tuple2.of((int) (long) n, "p,\u00e4" + n));
            times.put((int) (n % 4), Instant.ofEpochSecond(n, n));
            BigDecimal b = sum.value(); sum.update((b == null ? BigDecimal.ZERO : b).add(new BigDecimal(n).movePointLeft(2)));
            reduced.add(n); mean.add(n); mortal.update("m" + n);
            rows.add(Row.of(n % 2 == 0 ? null : "r" + n, n));
            day.update(LocalDate.of(2000, 1, 1).plusDays(n)); colour.update(Colour.values()[(int) (n % 3)]);
            lists.put("l" + n % 2, List.of("x" + n, "y")); raw.update(new byte[] {(byte) (long) n, 44, 0});
            nulls.put(n % 3, NULLS && n % 3 == 0 ? null : n % 2 == 0); ints.update(new int[] {(int) (long) n, -1});
            if (KRYO) strange.update(new Strange(n));
            c.timerService().registerEventTimeTimer(1_000_000_000_000L + n);
            c.timerService().registerProcessingTimeTimer(4_102_444_800_000L + n);
            if (n % 10 == 9) { times.clear(); sum.clear(); c.timerService().deleteEventTimeTimer(1_000_000_000_000L + n); }
        }
    }
    static final boolean NULLS = Boolean.getBoolean("nulls"), KRYO = Boolean.getBoolean("kryo");
    public static class Mean implements AggregateFunction<Long, Tuple2<Long, Long>, Long> {
        public Tuple2<Long, Long> createAccumulator() { return Tuple2.of(0L, 0L); }
        public Tuple2<Long, Long> add(Long v, Tuple2<Long, Long> a) { return Tuple2.of(a.f0 + v, a.f1 + 1); }
        public Long getResult(Tuple2<Long, Long> a) { return a.f0 / a.f1; }
        public Tuple2<Long, Long> merge(Tuple2<Long, Long> a, Tuple2<Long, Long> b) { return Tuple2.of(a.f0 + b.f0, a.f1 + b.f1); }
    }
    public static class Counter extends KeyedProcessFunction<Id, Long, String> {
        ValueState<Long> count;
        @Override public void open(OpenContext c) { count = getRuntimeContext().getState(new ValueStateDescriptor<>("count", Types.LONG)); }
        @Override public void processElement(Long n, Context c, Collector<String> o) throws Exception { Long v = count.value(); count.update(v == null ? 1 : v + 1); }
    }

    public static void main(String[] args) throws Exception {
        Configuration conf = new Configuration();
        conf.setString("state.backend.type", args[0]);
        conf.setString("execution.checkpointing.dir", "file://" + args[1] + "/checkpoints");
        conf.setString("rest.port", "0");
        conf.setString("execution.checkpointing.data-inline-threshold", "100kb");
        conf.setString("execution.checkpointing.externalized-checkpoint-retention", "RETAIN_ON_CANCELLATION");
        conf.setString("taskmanager.memory.process.size", "1g");
        for (int i = 2; i < args.length; i++) { String[] kv = args[i].split("=", 2); conf.setString(kv[0], kv[1]); }
        StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(3, conf);
        env.setMaxParallelism(Integer.getInteger("max", 300));
        DataStream<Long> numbers = env.fromSource(new NumberSequenceSource(0, 1_000_000_000L), WatermarkStrategy.noWatermarks(), "numbers").setParallelism(1).uid("numbers")
            .map(n -> { if (n >= LIMIT) Thread.sleep(20); return n; }).returns(Types.LONG).setParallelism(1).uid("throttle")
            .filter(n -> n < LIMIT).setParallelism(1).uid("limit");
        numbers.keyBy(new KeySelector<Long, Tuple2<String, Integer>>() { public Tuple2<String, Integer> getKey(Long n) { return Tuple2.of("k" + n % 5, (int) (n % 2)); } }, Types.TUPLE(Types.STRING, Types.INT))
            .process(new Keeper()).returns(Types.STRING).uid("keeper").sinkTo(new DiscardingSink<>()).uid("sink-1");
        numbers.keyBy(new KeySelector<Long, Id>() { public Id getKey(Long n) { Id i = new Id(); i.n = (int) (n % 7); i.s = "id" + n % 7; return i; } }, TypeInformation.of(Id.class))
            .process(new Counter()).returns(Types.STRING).uid("counter").sinkTo(new DiscardingSink<>()).uid("sink-2");
        numbers.assignTimestampsAndWatermarks(WatermarkStrategy.<Long>forMonotonousTimestamps().withTimestampAssigner((n, t) -> n * 1000)).setParallelism(1).uid("times")
            .keyBy(n -> n % 6, Types.LONG).window(EventTimeSessionWindows.withGap(Duration.ofSeconds(30)))
            .process(new ProcessWindowFunction<Long, String, Long, TimeWindow>() { public void process(Long k, Context c, Iterable<Long> v, Collector<String> o) { o.collect("" + k); } })
            .returns(Types.STRING).uid("sessions").sinkTo(new DiscardingSink<>()).uid("sink-3");
        JobClient job = env.executeAsync("zoo");
        Thread.sleep(9000);
        if (System.getProperty("savepoints", "").contains("canonical")) System.out.println(job.triggerSavepoint("file://" + args[1] + "/savepoints", SavepointFormatType.CANONICAL).get());
        if (System.getProperty("savepoints", "").contains("native")) System.out.println(job.triggerSavepoint("file://" + args[1] + "/savepoints", SavepointFormatType.NATIVE).get());
        if (Boolean.getBoolean("wait")) Thread.sleep(8000);
        job.cancel().get();
        System.exit(0);
    }
}
