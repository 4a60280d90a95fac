// `k6 run k6.js`: posts pictures to /predict and to the Open Inference Protocol, and checks each answer.
// URL, MODEL and PICTURES are the environment's; PICTURES is JSON: file, label and probability of each.
import { check } from "k6";
import encoding from "k6/encoding";
import http from "k6/http";

const { URL, MODEL } = __ENV;
const TOLERANCE = 1e-6;

const pictures = JSON.parse(__ENV.PICTURES).map((each) => ({ ...each, bytes: open(each.file, "b") }));

export const options = {
  vus: 2,
  iterations: 40,
  thresholds: { http_req_failed: ["rate==0"], checks: ["rate==1"] },
};

function checked(response, label, probability, picture) {
  check(response, {
    "the status is 200": () => response.status === 200,
    "the label is right": () => label === picture.label,
    "the probability is right": () => Math.abs(probability - picture.probability) <= TOLERANCE,
  });
}

export default function () {
  const picture = pictures[__ITER % pictures.length];
  const form = { image: http.file(picture.bytes, "picture.jpg", "image/jpeg") };
  const ours = http.post(`${URL}/predict?model=${MODEL}`, form);
  checked(ours, ours.json("predictions.0.label"), ours.json("predictions.0.probability"), picture);

  const request = {
    inputs: [{ name: "image", datatype: "BYTES", shape: [1], data: [encoding.b64encode(picture.bytes)] }],
    outputs: [{ name: "probabilities", parameters: { classification: 1 } }],
  };
  const headers = { "Content-Type": "application/json" };
  const tensors = http.post(`${URL}/v2/models/${MODEL}/infer`, JSON.stringify(request), { headers });
  const [value, , label] = String(tensors.json("outputs.0.data.0")).split(":");
  checked(tensors, label, Number(value), picture);
}
