import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.Semaphore;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.common.state.ValueState;
import org.apache.flink.api.common.state.ValueStateDescriptor;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.source.lib.NumberSequenceSource;
import org.apache.flink.api.java.functions.KeySelector;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.SavepointFormatType;
import org.apache.flink.runtime.jobgraph.JobGraph;
import org.apache.flink.runtime.minicluster.MiniCluster;
import org.apache.flink.runtime.minicluster.MiniClusterConfiguration;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.functions.KeyedProcessFunction;
import org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.util.Collector;

/**
 * Writes the state of a job of RocksDB with N keys, or reads it as Flink's own SQL connector for savepoints does.
 *
 * <p>Arguments: write FOLDER N TMP, which prints the paths of a canonical and a native savepoint; or read SAVEPOINT TMP. The connector
 * takes canonical ones only: of the native it says "Unsupported KeyedStateHandle type".
 */
public final class ManyEntries {
    private static final Semaphore DONE = new Semaphore(0);
    private static final long STEP = 10_000;

    private ManyEntries() {}

    /** A total for each user. */
    private static final class Totals extends KeyedProcessFunction<String, Long, Long> {
        private transient ValueState<Long> total;
        private long seen;

        @Override
        public void open(OpenContext context) {
            total = getRuntimeContext().getState(new ValueStateDescriptor<>("total", Types.LONG));
        }

        @Override
        public void processElement(Long number, Context context, Collector<Long> out) throws Exception {
            total.update(3 * number);
            if (++seen % STEP == 0) {
                DONE.release();
            }
        }
    }

    private static Configuration configuration(String scratch) {
        Configuration found = new Configuration();
        found.setString("state.backend.type", "rocksdb");
        found.setString("restart-strategy.type", "none");
        found.setString("taskmanager.memory.managed.size", "256m");
        found.setString("taskmanager.memory.network.min", "32m");
        found.setString("taskmanager.memory.network.max", "32m");
        found.setString("io.tmp.dirs", scratch);
        return found;
    }

    private static void write(String folder, long number, String scratch) throws Exception {
        Configuration configuration = configuration(scratch);
        configuration.setString("execution.checkpointing.storage", "filesystem");
        configuration.setString("execution.checkpointing.dir", "file://" + folder + "/checkpoints");
        StreamExecutionEnvironment environment = StreamExecutionEnvironment.getExecutionEnvironment(configuration);
        environment.setParallelism(1);
        environment.setMaxParallelism(128);
        // The source has more than is asked for, so that the job is running when the savepoint is taken.
        environment.fromSource(new NumberSequenceSource(0, Long.MAX_VALUE / 2), WatermarkStrategy.noWatermarks(), "numbers").uid("numbers")
                .map(value -> {
                    if (value >= number) {
                        Thread.sleep(1);
                    }
                    return value % number;
                }).returns(Types.LONG)
                .keyBy((KeySelector<Long, String>) value -> String.format("user-%08d", value), Types.STRING)
                .process(new Totals()).uid("totals").sinkTo(new DiscardingSink<>()).uid("sink");
        JobGraph job = environment.getStreamGraph().getJobGraph();
        MiniCluster cluster = new MiniCluster(new MiniClusterConfiguration.Builder()
                .setConfiguration(configuration).setNumTaskManagers(1).setNumSlotsPerTaskManager(1).withRandomPorts().build());
        cluster.start();
        cluster.submitJob(job).get();
        DONE.acquire((int) (number / STEP));
        System.out.println(cluster.triggerSavepoint(job.getJobID(), folder, false, SavepointFormatType.CANONICAL).get());
        System.out.println(cluster.stopWithSavepoint(job.getJobID(), folder, false, SavepointFormatType.NATIVE).get());
        cluster.close();
    }

    private static void read(String savepoint, String scratch) throws Exception {
        Configuration configuration = configuration(scratch);
        configuration.setString("parallelism.default", "1");
        TableEnvironment tables = TableEnvironment.create(EnvironmentSettings.newInstance().inBatchMode().withConfiguration(configuration).build());
        Map<String, String> options = new HashMap<>(Map.of(
                "connector", "savepoint", "state.backend.type", "rocksdb", "state.path", savepoint, "operator.uid", "totals"));
        StringBuilder with = new StringBuilder();
        options.forEach((name, value) -> with.append(with.length() == 0 ? "" : ", ").append("'").append(name).append("' = '").append(value).append("'"));
        tables.executeSql("CREATE TABLE state (k STRING, total BIGINT, PRIMARY KEY (k) NOT ENFORCED) WITH (" + with + ")");
        tables.executeSql("SELECT COUNT(*), SUM(total), MAX(k) FROM state").print();
    }

    public static void main(String[] arguments) {
        int code = 0;
        try {
            if (arguments[0].equals("write")) {
                write(arguments[1], Long.parseLong(arguments[2]), arguments[3]);
            } else {
                read(arguments[1], arguments[2]);
            }
        } catch (Exception failure) {
            failure.printStackTrace();
            code = 1;
        }
        System.out.flush();
        Runtime.getRuntime().halt(code);
    }
}
