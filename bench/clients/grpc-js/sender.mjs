// Sends requests one after the other: PORT METHOD AUTHORIZATION REQUESTS MESSAGE_FILE.
import { readFileSync } from "node:fs";
import grpc from "@grpc/grpc-js";

const [port, method, authorization, requests, file] = process.argv.slice(2);
const message = readFileSync(file);
const client = new grpc.Client(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
const metadata = new grpc.Metadata();
metadata.set("authorization", authorization);
const same = (value) => value;

const send = () =>
  new Promise((resolve, reject) => {
    const deadline = Date.now() + 10_000;
    client.makeUnaryRequest(`/${method}`, same, same, message, metadata, { deadline }, (error) =>
      error ? reject(error) : resolve(),
    );
  });

for (let left = Number(requests); left > 0; left--) await send();
client.close();
