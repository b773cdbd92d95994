# Sourced: the jars of RocketMQ's own filter in $cache/lib.
#
# Needs a JDK 17 and Maven. Jars are kept in $FILTER_BENCH_CACHE (default: $HOME/.cache/sluice-filter-bench).
version=${ROCKETMQ_VERSION:-5.3.3}
cache=${FILTER_BENCH_CACHE:-$HOME/.cache/sluice-filter-bench}/$version
if [ ! -f "$cache/.complete" ]; then
  mkdir -p "$cache"
  cat >"$cache/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>bench</groupId><artifactId>bench</artifactId><version>1</version><packaging>pom</packaging><dependencies>
<dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-filter</artifactId><version>$version</version></dependency>
<dependency><groupId>org.apache.rocketmq</groupId><artifactId>rocketmq-common</artifactId><version>$version</version></dependency>
</dependencies></project>
POM
  mvn -q -B -f "$cache/pom.xml" dependency:copy-dependencies -DoutputDirectory="$cache/lib" >&2
  touch "$cache/.complete"
fi
mkdir -p "$cache/classes"
