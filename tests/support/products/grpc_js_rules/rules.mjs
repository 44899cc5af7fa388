// What a client of Node's @grpc/grpc-js sees of a Turnout server; each exported function is a rule.
//
// `node run_rules.mjs DATA_ADDRESS INCLUDE_DIR ...` runs them all, and prints what became of each as JSON.

import assert from 'node:assert/strict';
import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';

const LIMIT = { 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 };
const X = Buffer.from(new Float32Array([0, 1, 2, 3]).buffer);

let protos;

export function load(includeDirs) {
  const options = { keepCase: true, includeDirs, longs: Number, enums: String };
  protos = grpc.loadPackageDefinition(loader.loadSync('turnout_proto/v1/prediction.proto', options));
}

async function withClient(address, use, options = {}) {
  const client = new protos.turnout.v1.PredictionService(address, grpc.credentials.createInsecure(), { ...LIMIT, ...options });
  try {
    return await use(client);
  } finally {
    client.close();
  }
}

function request(model, raw = X, more = {}) {
  return { model, inputs: [{ name: 'x', data_type: 'DATA_TYPE_FLOAT32', shape: [raw.length / 16, 4], raw }], ...more };
}

// Resolves to what came of a call: error, answer, and the trailing metadata.
function predict(client, message, metadata = new grpc.Metadata(), options = {}) {
  return new Promise((resolve) => {
    let error = null, answer = null;
    const call = client.Predict(message, metadata, options, (failure, response) => { error = failure; answer = response; });
    call.on('status', (status) => setImmediate(() => resolve({ error, answer, trailing: status.metadata, call })));
    if (options.cancelAtOnce) call.cancel();
  });
}

function raw(address, path, body) {
  const bytes = (buffer) => buffer;
  const client = new grpc.Client(address, grpc.credentials.createInsecure());
  return new Promise((resolve, reject) => {
    client.makeUnaryRequest(path, bytes, bytes, body, (error, answer) => {
      client.close();
      error ? reject(error) : resolve(answer);
    });
  });
}

export async function a_prediction_says_which_version_made_it(address) {
  await withClient(address, async (client) => {
    const { error, answer, trailing } = await predict(client, request('m'));
    assert.equal(error, null);
    assert.deepEqual([...new Float32Array(new Uint8Array(answer.outputs[0].raw).buffer)], [0, 2, 4, 6]);
    assert.equal(answer.route.version, '1.0.0');
    assert.deepEqual(trailing.get('x-turnout-version'), ['1.0.0']);
  });
}

export async function a_refusal_has_its_code_its_words_and_its_details(address) {
  await withClient(address, async (client) => {
    const { error } = await predict(client, request('grün ✓'));
    assert.equal(error.code, grpc.status.NOT_FOUND);
    assert.match(error.details, /no model is named 'grün ✓'/);
    const [details] = error.metadata.get('grpc-status-details-bin');
    assert.ok(Buffer.isBuffer(details) && details[0] === 0x08 && details[1] === grpc.status.NOT_FOUND);
  });
}

export async function metadata_of_text_and_of_bytes_is_taken(address) {
  await withClient(address, async (client) => {
    const metadata = new grpc.Metadata();
    metadata.set('x-routing-key', 'user-7');
    metadata.set('trace-bin', Buffer.from([0, 255, 128, 10]));
    metadata.add('x-other', 'a');
    metadata.add('x-other', 'b');
    assert.equal((await predict(client, request('m'), metadata)).error, null);
  });
}

export async function a_deadline_ends_a_call(address) {
  await withClient(address, async (client) => {
    const slow = request('slow');
    slow.inputs.push({ name: 'n', data_type: 'DATA_TYPE_INT64', shape: [], raw: Buffer.from(new BigInt64Array([5_000_000n]).buffer) });
    const { error } = await predict(client, slow, undefined, { deadline: Date.now() + 100 });
    assert.equal(error.code, grpc.status.DEADLINE_EXCEEDED);
    assert.equal((await predict(client, request('m'))).error, null);
  });
}

export async function a_call_that_is_cancelled_is_over(address) {
  await withClient(address, async (client) => {
    const { error } = await predict(client, request('m'), undefined, { cancelAtOnce: true });
    assert.equal(error.code, grpc.status.CANCELLED);
    assert.equal((await predict(client, request('m'))).error, null);
  });
}

export async function a_stream_answers_each_item_before_the_next_is_sent(address) {
  await withClient(address, async (client) => {
    const stream = client.PredictStream();
    const answers = stream[Symbol.asyncIterator]();
    for (let number = 0; number < 100; number++) {
      stream.write({ request: request('m', X, { request_id: `r${number}` }) });
      const { value } = await answers.next();
      assert.equal(value.request_id, `r${number}`);
      assert.ok(value.response);
    }
    stream.end();
    assert.ok((await answers.next()).done);
  });
}

export async function a_stream_that_is_cancelled_leaves_the_connection_well(address) {
  await withClient(address, async (client) => {
    const stream = client.PredictStream();
    stream.write({ request: request('m', X, { request_id: 'r' }) });
    await new Promise((resolve) => stream.once('data', resolve));
    const ended = new Promise((resolve) => stream.once('error', resolve));
    stream.cancel();
    assert.equal((await ended).code, grpc.status.CANCELLED);
    assert.equal((await predict(client, request('m'))).error, null);
  });
}

export async function two_thousand_calls_go_at_once(address) {
  await withClient(address, async (client) => {
    const outcomes = await Promise.all(Array.from({ length: 2000 }, () => predict(client, request('m'))));
    assert.deepEqual(new Set(outcomes.map(({ error }) => error && error.code)), new Set([null]));
  });
}

export async function a_tensor_of_20_megabytes_comes_back(address) {
  await withClient(address, async (client) => {
    const large = Buffer.alloc(20_000_000, 1);
    const { error, answer } = await predict(client, request('wide', large));
    assert.equal(error, null);
    assert.ok(large.equals(answer.outputs[0].raw));
  });
}

export async function a_message_beyond_the_limit_is_refused(address) {
  await withClient(address, async (client) => {
    const { error } = await predict(client, request('wide', Buffer.alloc(70_000_000)));
    assert.equal(error.code, grpc.status.RESOURCE_EXHAUSTED);
    assert.equal((await predict(client, request('m'))).error, null);
  });
}

export async function compressed_requests_are_answered(address) {
  const gzip = { 'grpc.default_compression_algorithm': grpc.compressionAlgorithms.gzip };
  await withClient(address, async (client) => {
    const { error, answer } = await predict(client, request('wide', Buffer.alloc(1_600_000)));
    assert.equal(error, null);
    assert.equal(answer.outputs[0].raw.length, 1_600_000);
  }, gzip);
}

export async function health_and_the_open_inference_protocol_are_there(address) {
  assert.deepEqual([...await raw(address, '/grpc.health.v1.Health/Check', Buffer.alloc(0))], [8, 1]);
  assert.deepEqual([...await raw(address, '/inference.GRPCInferenceService/ServerLive', Buffer.alloc(0))], [8, 1]);
}

export async function a_method_that_is_not_there_is_unimplemented(address) {
  const error = await raw(address, '/nobody.Service/Method', Buffer.alloc(0)).catch((failure) => failure);
  assert.equal(error.code, grpc.status.UNIMPLEMENTED);
}
