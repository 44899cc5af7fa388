// Load for turnout.v1.PredictionService: closed loop, unary or over one PredictStream, or open loop. Checks every status.
//
//   loadgen TARGET MODEL SELECTOR INPUT DTYPE DIMS unary|stream IN_FLIGHT SECONDS
//   loadgen TARGET MODEL SELECTOR INPUT DTYPE DIMS open REQUESTS_PER_SECOND SECONDS
//   loadgen 127.0.0.1:8001 tiny 1.0.0 x f32 1,64 unary 16 2
//
// Prints one JSON object: answers, errors, seconds, rps, and p50, p99 and max in milliseconds,
// and the latencies themselves where they are few.
#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "turnout_proto/v1/prediction.grpc.pb.h"

namespace pb = turnout::v1;
using Clock = std::chrono::steady_clock;

namespace {

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Options {
  std::string target, model, selector, input, dtype, mode;
  std::vector<int64_t> dims;
  int in_flight;
  double seconds;
};

struct Result {
  std::vector<double> latencies;  // seconds
  long errors = 0;
  std::string first_error;
  double seconds = 0;

  void failed(const std::string& message) {
    if (errors++ == 0) first_error = message;
  }
};

pb::PredictRequest make_request(const Options& o) {
  pb::PredictRequest request;
  request.set_model(o.model);
  request.set_version(o.selector);
  auto* tensor = request.add_inputs();
  tensor->set_name(o.input);
  int64_t count = 1;
  for (auto dim : o.dims) {
    tensor->add_shape(dim);
    count *= dim;
  }
  std::mt19937 random(7);
  std::string* raw = tensor->mutable_raw();
  for (int64_t i = 0; i < count; i++) {
    if (o.dtype == "f32") {
      float value = (random() % 1000) / 1000.0f;
      raw->append(reinterpret_cast<char*>(&value), sizeof value);
    } else {
      int32_t value = random() % 256;
      raw->append(reinterpret_cast<char*>(&value), sizeof value);
    }
  }
  tensor->set_data_type(o.dtype == "f32" ? pb::DATA_TYPE_FLOAT32 : pb::DATA_TYPE_INT32);
  return request;
}

struct Call {
  grpc::ClientContext context;
  pb::PredictResponse response;
  grpc::Status status;
  Clock::time_point start;
  std::unique_ptr<grpc::ClientAsyncResponseReader<pb::PredictResponse>> reader;
};

Result run_unary(const Options& o, pb::PredictionService::Stub& stub) {
  const pb::PredictRequest request = make_request(o);
  grpc::CompletionQueue queue;
  Result result;
  auto begin = [&] {
    auto* call = new Call;
    call->start = Clock::now();
    call->reader = stub.AsyncPredict(&call->context, request, &queue);
    call->reader->Finish(&call->response, &call->status, call);
  };
  const auto start = Clock::now();
  for (int i = 0; i < o.in_flight; i++) begin();
  int open = o.in_flight;
  void* tag;
  bool ok;
  while (open > 0 && queue.Next(&tag, &ok)) {
    std::unique_ptr<Call> call(static_cast<Call*>(tag));
    if (call->status.ok() && call->response.outputs_size() > 0) {
      result.latencies.push_back(seconds_since(call->start));
    } else {
      result.failed(call->status.error_message());
    }
    if (seconds_since(start) < o.seconds) begin(); else open--;
  }
  result.seconds = seconds_since(start);
  return result;
}

// Arrivals of a Poisson process, whatever the answers take. Latency counts from when a request was due, so that one the
// generator sends late is not counted as quick.
Result run_open(const Options& o, pb::PredictionService::Stub& stub) {
  const pb::PredictRequest request = make_request(o);
  grpc::CompletionQueue queue;
  Result result;
  std::mt19937 random(11);
  std::exponential_distribution<double> gap(o.in_flight);
  const auto start = Clock::now();
  double due = gap(random);
  long open = 0;
  void* tag;
  bool ok;
  while (due < o.seconds || open > 0) {
    if (due < o.seconds && seconds_since(start) >= due) {
      auto* call = new Call;
      call->start = start + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(due));
      call->reader = stub.AsyncPredict(&call->context, request, &queue);
      call->reader->Finish(&call->response, &call->status, call);
      open++;
      due += gap(random);
      continue;
    }
    const double wait = due < o.seconds ? due - seconds_since(start) : 10.0;
    const auto until = std::chrono::system_clock::now() + std::chrono::microseconds(long(std::max(wait, 0.0) * 1e6));
    if (queue.AsyncNext(&tag, &ok, until) != grpc::CompletionQueue::GOT_EVENT) {
      if (due >= o.seconds) {
        result.failed("no answer within 10 s");
        break;
      }
      continue;
    }
    std::unique_ptr<Call> call(static_cast<Call*>(tag));
    open--;
    if (call->status.ok() && call->response.outputs_size() > 0) {
      result.latencies.push_back(seconds_since(call->start));
    } else {
      result.failed(call->status.error_message());
    }
  }
  result.seconds = seconds_since(start);
  return result;
}

Result run_stream(const Options& o, pb::PredictionService::Stub& stub) {
  pb::PredictStreamRequest item;
  *item.mutable_request() = make_request(o);
  std::vector<Clock::time_point> started(o.in_flight);
  grpc::ClientContext context;
  auto stream = stub.PredictStream(&context);
  Result result;
  auto begin = [&](int slot) {
    item.mutable_request()->set_request_id(std::to_string(slot));
    started[slot] = Clock::now();
    return stream->Write(item);
  };
  const auto start = Clock::now();
  for (int i = 0; i < o.in_flight; i++) begin(i);
  int open = o.in_flight;
  pb::PredictStreamResponse answer;
  while (open > 0 && stream->Read(&answer)) {
    const int slot = std::stoi(answer.request_id());
    if (answer.has_response() && answer.response().outputs_size() > 0) {
      result.latencies.push_back(seconds_since(started[slot]));
    } else {
      result.failed(answer.error().message());
    }
    if (seconds_since(start) < o.seconds) begin(slot); else open--;
  }
  result.seconds = seconds_since(start);
  stream->WritesDone();
  const auto status = stream->Finish();
  if (!status.ok()) result.failed(status.error_message());
  return result;
}

void print(Result& result) {
  auto& all = result.latencies;
  std::sort(all.begin(), all.end());
  auto quantile = [&](double q) { return all.empty() ? 0.0 : 1e3 * all[std::min(all.size() - 1, size_t(q * all.size()))]; };
  std::string error;
  for (char c : result.first_error.substr(0, 200)) error += (c == '"' || c == '\\' || c < 32) ? ' ' : c;
  std::printf("{\"answers\": %zu, \"errors\": %ld, \"first_error\": \"%s\", \"seconds\": %.3f, \"rps\": %.1f, "
              "\"p50_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f, \"latencies_ms\": [",
              all.size(), result.errors, error.c_str(), result.seconds, all.size() / result.seconds, quantile(0.5),
              quantile(0.99), quantile(1.0));
  // Enough for whoever puts windows together: the quantile of them all is no mean of quantiles.
  const size_t told = all.size() <= 5000 ? all.size() : 0;
  for (size_t i = 0; i < told; i++) std::printf("%s%.4f", i ? ", " : "", 1e3 * all[i]);
  std::printf("]}\n");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 10) {
    std::fprintf(stderr, "usage: loadgen TARGET MODEL SELECTOR INPUT f32|i32 DIMS unary|stream|open IN_FLIGHT|RATE SECONDS\n");
    return 2;
  }
  Options o{argv[1], argv[2], argv[3], argv[4], argv[5], argv[7], {}, std::stoi(argv[8]), std::stod(argv[9])};
  std::stringstream dims(argv[6]);
  for (std::string dim; std::getline(dims, dim, ',');) o.dims.push_back(std::stol(dim));
  auto channel = grpc::CreateChannel(o.target, grpc::InsecureChannelCredentials());
  if (!channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10))) {
    std::fprintf(stderr, "nothing answers at %s\n", o.target.c_str());
    return 1;
  }
  auto stub = pb::PredictionService::NewStub(channel);
  Result result = o.mode == "stream" ? run_stream(o, *stub) : o.mode == "open" ? run_open(o, *stub) : run_unary(o, *stub);
  print(result);
  return result.errors ? 1 : 0;
}
