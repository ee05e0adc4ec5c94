import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Semaphore;
import java.util.concurrent.locks.LockSupport;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.flink.api.common.eventtime.SerializableTimestampAssigner;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.MapFunction;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.functions.ReduceFunction;
import org.apache.flink.api.common.serialization.SimpleStringEncoder;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.state.MapState;
import org.apache.flink.api.common.state.MapStateDescriptor;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.source.lib.NumberSequenceSource;
import org.apache.flink.api.java.functions.KeySelector;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.api.java.tuple.Tuple3;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.connector.file.sink.FileSink;
import org.apache.flink.core.execution.CheckpointType;
import org.apache.flink.core.execution.SavepointFormatType;
import org.apache.flink.core.fs.FileSystem;
import org.apache.flink.core.fs.Path;
import org.apache.flink.runtime.jobgraph.JobGraph;
import org.apache.flink.runtime.jobgraph.SavepointRestoreSettings;
import org.apache.flink.runtime.jobmaster.JobResult;
import org.apache.flink.runtime.minicluster.MiniCluster;
import org.apache.flink.runtime.minicluster.MiniClusterConfiguration;
import org.apache.flink.runtime.state.FunctionInitializationContext;
import org.apache.flink.runtime.state.FunctionSnapshotContext;
import org.apache.flink.runtime.state.KeyedStateBackend;
import org.apache.flink.runtime.state.VoidNamespace;
import org.apache.flink.runtime.state.VoidNamespaceSerializer;
import org.apache.flink.streaming.api.checkpoint.CheckpointedFunction;
import org.apache.flink.streaming.api.datastream.BroadcastStream;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.co.BroadcastProcessFunction;
import org.apache.flink.streaming.api.functions.sink.filesystem.bucketassigners.BasePathBucketAssigner;
import org.apache.flink.streaming.api.functions.sink.filesystem.rollingpolicies.OnCheckpointRollingPolicy;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.streaming.api.functions.windowing.WindowFunction;
import org.apache.flink.streaming.api.operators.InternalTimerService;
import org.apache.flink.streaming.api.operators.KeyedProcessOperator;
import org.apache.flink.streaming.api.windowing.assigners.TumblingEventTimeWindows;
import org.apache.flink.streaming.api.windowing.windows.TimeWindow;
import org.apache.flink.util.Collector;

/**
 * Restores the job of tests/golden/flink from a folder, tells what it finds in its state, and runs to the end of its sources.
 *
 * <p>With checkpoints=N it takes that many on its way, each after some hundred records, and is cancelled: it goes slowly then.
 *
 * <p>Arguments are NAME=VALUE: from (may be left out), uids (OLD>NEW,...), parallelism, max, sink (a folder), tmp, and set.OPTION. What it tells are
 * lines of fields with tabs between: job, savepoint (its path), restored and final (key, total, items, recent), timer, audit, window, rule, failed, done.
 * Whether that is right is for the caller to say. Exit 0: it ran to the end; 3: it did not.
 */
public final class RestoreOrders {
    private static final long NUMBERS = 8000;
    private static final long HALF = NUMBERS / 2;
    private static final long EVENT_TIMER = 4_000_000_000_000L;
    private static final long PROCESSING_TIMER = 4_102_444_800_000L;
    private static final MapStateDescriptor<String, Long> RULES = new MapStateDescriptor<>("rules", Types.STRING, Types.LONG);
    private static final int BETWEEN_CHECKPOINTS = 400;
    private static final int MOST_TRIES = 20;
    private static final long PAUSE_NANOS = 2_000_000;
    private static final Semaphore EMITTED = new Semaphore(0);
    private static final Map<String, String> WISHES = new HashMap<>();

    private RestoreOrders() {}

    private static synchronized void tell(Object... fields) {
        System.out.println(Stream.of(fields).map(String::valueOf).map(text -> text.replaceAll("\\s+", " ")).collect(Collectors.joining("\t")));
    }

    private static String wish(String name, String otherwise) {
        return WISHES.getOrDefault(name, otherwise);
    }

    private static String uid(String known) {
        for (String pair : wish("uids", "").split(",")) {
            if (pair.startsWith(known + ">")) {
                return pair.substring(known.length() + 1);
            }
        }
        return known;
    }

    /** An order: who, what, how much. */
    private static final class ToOrder implements MapFunction<Long, Tuple3<String, String, Long>> {
        @Override
        public Tuple3<String, String, Long> map(Long number) {
            if (WISHES.containsKey("checkpoints")) {
                LockSupport.parkNanos(PAUSE_NANOS);
                EMITTED.release();
            }
            return Tuple3.of("user-" + number * 7 % 211, "item-" + number % 5, number);
        }
    }

    /** Sums, counts by item, every fiftieth order, and two timers for each user. */
    private static final class Totals extends KeyedProcessFunction<String, Tuple3<String, String, Long>, String> {
        private transient ValueState<Long> total;
        private transient MapState<String, Long> items;
        private transient ListState<String> recent;

        @Override
        public void open(OpenContext context) {
            total = getRuntimeContext().getState(new ValueStateDescriptor<>("total", Types.LONG));
            items = getRuntimeContext().getMapState(new MapStateDescriptor<>("per-item", Types.STRING, Types.LONG));
            recent = getRuntimeContext().getListState(new ListStateDescriptor<>("recent", Types.STRING));
        }

        @Override
        public void processElement(Tuple3<String, String, Long> order, Context context, Collector<String> out) throws Exception {
            if (total.value() == null) {
                total.update(0L);
                context.timerService().registerEventTimeTimer(EVENT_TIMER + order.f0.length());
                context.timerService().registerProcessingTimeTimer(PROCESSING_TIMER);
            }
            total.update(total.value() + order.f2);
            items.put(order.f1, items.contains(order.f1) ? items.get(order.f1) + 1 : 1L);
            if (order.f2 % 50 == 0) {
                recent.add("order-" + order.f2);
            }
            out.collect(order.f0);
        }

        @Override
        public void onTimer(long time, OnTimerContext context, Collector<String> out) {
            tell("fired", context.getCurrentKey(), time);
        }

        void describe(String what, String user) throws Exception {
            TreeMap<String, Long> counts = new TreeMap<>();
            for (Map.Entry<String, Long> entry : items.entries()) {
                counts.put(entry.getKey(), entry.getValue());
            }
            List<String> orders = new ArrayList<>();
            recent.get().forEach(orders::add);
            tell(what, user, total.value(), counts, orders.stream().sorted().collect(Collectors.toList()));
        }
    }

    /** Tells all of its state when it was restored, before the first record, and when it ends. */
    private static final class TellingOperator extends KeyedProcessOperator<String, Tuple3<String, String, Long>, String> {
        private final Totals totals;

        TellingOperator(Totals totals) {
            super(totals);
            this.totals = totals;
        }

        @Override
        public void open() throws Exception {
            super.open();
            describe("restored");
            InternalTimerService<VoidNamespace> timers = getInternalTimerService("user-timers", VoidNamespaceSerializer.INSTANCE, this);
            timers.forEachEventTimeTimer((space, time) -> tell("timer", "event", getCurrentKey(), time));
            timers.forEachProcessingTimeTimer((space, time) -> tell("timer", "processing", getCurrentKey(), time));
        }

        @Override
        public void finish() throws Exception {
            super.finish();
            describe("final");
        }

        private void describe(String what) throws Exception {
            KeyedStateBackend<String> backend = getKeyedStateBackend();
            List<String> users;
            try (Stream<String> found = backend.getKeys("total", VoidNamespace.INSTANCE)) {
                users = found.collect(Collectors.toList());
            }
            for (String user : users) {
                backend.setCurrentKey(user);
                totals.describe(what, user);
            }
        }
    }

    /** Counts records in a list state and a union state. */
    private static final class Audit implements MapFunction<String, String>, CheckpointedFunction {
        private transient ListState<Tuple2<Integer, Long>> counts;
        private transient ListState<Long> most;
        private long count;

        @Override
        public String map(String user) {
            count++;
            return user;
        }

        @Override
        public void initializeState(FunctionInitializationContext context) throws Exception {
            counts = context.getOperatorStateStore().getListState(new ListStateDescriptor<>("audit-counts", Types.TUPLE(Types.INT, Types.LONG)));
            most = context.getOperatorStateStore().getUnionListState(new ListStateDescriptor<>("audit-max", Types.LONG));
            for (Tuple2<Integer, Long> entry : counts.get()) {
                tell("audit", entry.f0, entry.f1);
                count += entry.f1;
            }
            for (Long value : most.get()) {
                tell("union", value);
            }
        }

        @Override
        public void snapshotState(FunctionSnapshotContext context) throws Exception {
            counts.update(List.of(Tuple2.of(0, count)));
            most.update(List.of(count));
        }
    }

    /** Passes users on, and keeps rules. */
    private static final class Rules extends BroadcastProcessFunction<String, Long, String> {
        @Override
        public void processElement(String user, ReadOnlyContext context, Collector<String> out) {
            out.collect(user);
        }

        @Override
        public void processBroadcastElement(Long number, Context context, Collector<String> out) throws Exception {
            context.getBroadcastState(RULES).put("rule-" + number, number * 100);
            for (Map.Entry<String, Long> rule : context.getBroadcastState(RULES).entries()) {
                tell("rule", rule.getKey(), rule.getValue());
            }
        }
    }

    private static JobGraph graph(Configuration configuration) {
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment(configuration);
        environment.setParallelism(Integer.parseInt(wish("parallelism", "2")));
        environment.setMaxParallelism(Integer.parseInt(wish("max", "128")));
        WatermarkStrategy<Long> times = WatermarkStrategy.<Long>forMonotonousTimestamps()
                .withTimestampAssigner((SerializableTimestampAssigner<Long>) (number, before) -> number % HALF * 1000);
        KeyedStream<Tuple3<String, String, Long>, String> orders = environment
                .fromSource(new NumberSequenceSource(0, NUMBERS - 1), times, "orders-source").uid(uid("orders-source"))
                .map(new ToOrder()).returns(Types.TUPLE(Types.STRING, Types.STRING, Types.LONG)).uid(uid("orders-parse"))
                .keyBy((KeySelector<Tuple3<String, String, Long>, String>) order -> order.f0, Types.STRING);
        // In this order: records in flight are found again by the numbers of the edges that they were on.
        DataStream<String> totals = orders.transform("totals", Types.STRING, new TellingOperator(new Totals())).uid(uid("order-totals"));
        DataStream<String> windows = orders.window(TumblingEventTimeWindows.of(java.time.Duration.ofSeconds(600)))
                .reduce(
                        (ReduceFunction<Tuple3<String, String, Long>>) (one, two) -> Tuple3.of(one.f0, "sum", one.f2 + two.f2),
                        new WindowFunction<Tuple3<String, String, Long>, String, String, TimeWindow>() {
                            @Override
                            public void apply(String user, TimeWindow window, Iterable<Tuple3<String, String, Long>> sums, Collector<String> out) {
                                sums.forEach(sum -> tell("window", user, window.getStart(), sum.f2));
                                out.collect(user);
                            }
                        })
                .uid(uid("order-window"));
        BroadcastStream<Long> rules = environment
                .fromSource(new NumberSequenceSource(0, 5), WatermarkStrategy.noWatermarks(), "rules-source").uid(uid("rules-source"))
                .broadcast(RULES);
        DataStream<String> checked = totals.map(new Audit()).uid(uid("order-audit"))
                .connect(rules).process(new Rules()).uid(uid("order-rules"));
        DataStream<String> all = checked.union(windows);
        if (WISHES.containsKey("sink")) {
            all.sinkTo(FileSink.forRowFormat(new Path(wish("sink", "")), new SimpleStringEncoder<String>())
                    .withRollingPolicy(OnCheckpointRollingPolicy.build())
                    .withBucketAssigner(new BasePathBucketAssigner<>()).build()).uid(uid("order-sink"));
        } else {
            all.sinkTo(new DiscardingSink<>()).uid(uid("order-sink"));
        }
        return environment.getStreamGraph().getJobGraph();
    }

    private static Configuration configuration() {
        Configuration found = new Configuration();
        found.setString("restart-strategy.type", "none");
        found.setString("restart-strategy", "none");
        found.setString("taskmanager.memory.managed.size", "128m");
        found.setString("taskmanager.memory.network.min", "32m");
        found.setString("taskmanager.memory.network.max", "32m");
        found.setString("io.tmp.dirs", wish("tmp", ""));
        WISHES.forEach((name, value) -> {
            if (name.startsWith("set.")) {
                found.setString(name.substring(4), value);
            }
        });
        return found;
    }

    /** Again after some records, where it was declined: a source that has just ended is not ready. */
    private static void takeCheckpoint(MiniCluster cluster, JobGraph job) throws Exception {
        for (int tries = 1; ; tries++) {
            try {
                cluster.triggerCheckpoint(job.getJobID(), CheckpointType.CONFIGURED).get();
                return;
            } catch (ExecutionException declined) {
                if (tries == MOST_TRIES) {
                    throw declined;
                }
                EMITTED.acquire(BETWEEN_CHECKPOINTS / MOST_TRIES);
            }
        }
    }

    private static void tellFailure(Throwable failure) {
        StringBuilder chain = new StringBuilder();
        for (Throwable cause = failure; cause != null && chain.length() < 10_000; cause = cause.getCause()) {
            chain.append(cause).append(" <- ");
        }
        tell("failed", chain);
    }

    public static void main(String[] arguments) throws Exception {
        for (String argument : arguments) {
            int equals = argument.indexOf('=');
            WISHES.put(argument.substring(0, equals), argument.substring(equals + 1));
        }
        Configuration configuration = configuration();
        FileSystem.initialize(configuration, null);
        MiniCluster cluster = new MiniCluster(new MiniClusterConfiguration.Builder()
                .setConfiguration(configuration).setNumTaskManagers(1).setNumSlotsPerTaskManager(4).withRandomPorts().build());
        cluster.start();
        JobGraph job = graph(configuration);
        if (WISHES.containsKey("from")) {
            job.setSavepointRestoreSettings(SavepointRestoreSettings.forPath(wish("from", ""), Boolean.parseBoolean(wish("allow", "false"))));
        }
        int code = 3;
        try {
            cluster.submitJob(job).get();
            if (WISHES.containsKey("checkpoints")) {
                for (int left = Integer.parseInt(wish("checkpoints", "1")); left > 0; left--) {
                    EMITTED.acquire(BETWEEN_CHECKPOINTS);
                    takeCheckpoint(cluster, job);
                }
                for (String kind : wish("savepoints", "").split(",")) {
                    if (!kind.isEmpty()) {
                        tell("savepoint", cluster.triggerSavepoint(job.getJobID(), wish("savepointdir", ""), false,
                                SavepointFormatType.valueOf(kind)).get());
                    }
                }
                cluster.cancelJob(job.getJobID()).get();
                tell("job", job.getJobID());
                cluster.close();
                System.out.flush();
                Runtime.getRuntime().halt(0);
            }
            JobResult result = cluster.requestJobResult(job.getJobID()).get();
            if (result.isSuccess()) {
                tell("done");
                code = 0;
            } else {
                tellFailure(result.getSerializedThrowable().get().deserializeError(RestoreOrders.class.getClassLoader()));
            }
        } catch (ExecutionException failure) {
            tellFailure(failure);
        }
        System.out.flush();
        Runtime.getRuntime().halt(code);
    }
}
