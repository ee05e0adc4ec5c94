import org.rocksdb.*;
import java.util.*;
import java.nio.file.*;
public class Tables {
    static String hex(byte[] b) { StringBuilder s = new StringBuilder(); for (byte x : b) s.append(String.format("%02x", x)); return s.toString(); }
    public static void main(String[] a) throws Exception {
        RocksDB.loadLibrary();
        long seed = Long.parseLong(a[1]); Random r = new Random(seed);
        BlockBasedTableConfig t = new BlockBasedTableConfig().setFormatVersion(5);
        if (seed % 2 == 0) t.setIndexType(IndexType.kTwoLevelIndexSearch).setMetadataBlockSize(256).setPartitionFilters(false);
        Options o = new Options().setCreateIfMissing(true).setMergeOperatorName("stringappendtest").setDisableAutoCompactions(seed % 3 != 0)
            .setTableFormatConfig(t).setCompressionType(seed % 3 == 0 ? CompressionType.ZSTD_COMPRESSION : CompressionType.SNAPPY_COMPRESSION);
        RocksDB db = RocksDB.open(o, a[0] + "/db");
        for (int f = 0; f < 5; f++) {
            for (int i = 0; i < 700; i++) {
                byte[] k = ("k" + String.format("%04d", r.nextInt(500))).getBytes();
                int x = r.nextInt(10);
                if (x < 4) db.merge(k, ("m" + f + "." + i).getBytes()); else if (x < 7) db.put(k, ("p" + f + "." + i).getBytes()); else if (x < 9) db.delete(k);
                else { byte[] once = ("once" + f + "." + i).getBytes(); db.put(once, k); if (r.nextBoolean()) { if (r.nextInt(60) == 0) db.flush(new FlushOptions().setWaitForFlush(true)); db.singleDelete(once); } }
            }
            byte[] lo = ("k" + String.format("%04d", r.nextInt(500))).getBytes(), hi = ("k" + String.format("%04d", r.nextInt(500))).getBytes();
            if (Arrays.compare(lo, hi) < 0) db.deleteRange(lo, hi);
            db.flush(new FlushOptions().setWaitForFlush(true));
            if (a.length > 2 && f == 2) {
                SstFileWriter w = new SstFileWriter(new EnvOptions(), o); w.open(a[0] + "/in.sst");
                for (int i = 0; i < 500; i += 7) w.put(("k" + String.format("%04d", i)).getBytes(), ("ingested" + i).getBytes());
                w.finish(); w.close();
                IngestExternalFileOptions in = new IngestExternalFileOptions(); in.setWriteGlobalSeqno(a[2].equals("written"));
                db.ingestExternalFile(List.of(a[0] + "/in.sst"), in);
            }
        }
        try (java.io.PrintWriter p = new java.io.PrintWriter(a[0] + "/expected"); RocksIterator it = db.newIterator()) {
            for (it.seekToFirst(); it.isValid(); it.next()) p.println(hex(it.key()) + " " + hex(it.value()));
            it.status();
        }
        db.close();
    }
}
