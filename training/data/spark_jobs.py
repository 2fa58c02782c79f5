"""A few local Spark jobs that log at INFO in Spark's default pattern."""

from pyspark.sql import SparkSession, functions as F

spark = SparkSession.builder.master("local[4]").config("spark.ui.enabled", "false").config("spark.sql.shuffle.partitions", 12).getOrCreate()
spark.sparkContext.setLogLevel("INFO")
for n in range(12):
    words = spark.sparkContext.parallelize(range(2000 * (n + 1)), 8).map(lambda x: (x % 97, x)).reduceByKey(lambda a, b: a + b)
    words.persist().count()
    words.sortByKey().take(5)
    words.unpersist()
    t = spark.range(0, 5000 * (n + 1), 1, 6).withColumn("k", F.col("id") % (n + 3))
    t.groupBy("k").agg(F.sum("id"), F.avg("id")).orderBy("k").collect()
    t.join(t.withColumnRenamed("id", "other").limit(50), "k").count()
spark.stop()
