// Every way in which the JavaScript client talks with a cluster; one JSON line a finding. node client.mjs NAMESPACE
import * as k8s from '@kubernetes/client-node';
import net from 'node:net';
import { PassThrough } from 'node:stream';
const kc = new k8s.KubeConfig(); kc.loadFromDefault();
const core = kc.makeApiClient(k8s.CoreV1Api), apps = kc.makeApiClient(k8s.AppsV1Api);
const namespace = process.argv[2];
const say = (what, value) => console.log(JSON.stringify([what, value]));
const until = async (check) => { for (let i = 0; i < 150; i++) { const v = await check(); if (v) return v; await new Promise(r => setTimeout(r, 100)); } throw new Error(`not in time: ${check}`); };

say('nodes', (await core.listNode()).items.length);
const seen = [];
const informer = k8s.makeInformer(kc, `/api/v1/namespaces/${namespace}/pods`, () => core.listNamespacedPod({ namespace }));
for (const verb of ['add', 'update', 'delete']) informer.on(verb, (pod) => seen.push(`${verb} ${pod.metadata.name}`));
informer.on('error', (err) => { if (err && err.name !== 'AbortError') seen.push(`error ${err}`); });
await informer.start();

await core.createNamespacedPod({ namespace, body: { metadata: { name: 'web' }, spec: { terminationGracePeriodSeconds: 1, containers: [{ name: 'main', image: 'nginx:latest' }] } } });
await until(async () => (await core.readNamespacedPod({ name: 'web', namespace })).status.phase === 'Running');
const patched = await core.patchNamespacedPod({ name: 'web', namespace, body: [{ op: 'add', path: '/metadata/labels', value: { a: 'b' } }] });
say('patch', patched.metadata.labels);
const merged = await core.patchNamespacedPod({ name: 'web', namespace, body: { metadata: { labels: { c: 'd' } } } }, k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.StrategicMergePatch));
say('merge', merged.metadata.labels);
const applied = await core.patchNamespacedConfigMap({ name: 'settings', namespace, fieldManager: 'node', force: true, body: { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'settings' }, data: { key: 'value' } } }, k8s.setHeaderOptions('Content-Type', k8s.PatchStrategy.ServerSideApply));
say('apply', applied.metadata.managedFields.map((m) => `${m.manager} ${m.operation}`));
const objects = k8s.KubernetesObjectApi.makeApiClient(kc);
const deployed = await objects.create({ apiVersion: 'apps/v1', kind: 'Deployment', metadata: { name: 'none', namespace }, spec: { replicas: 0, selector: { matchLabels: { a: 'b' } }, template: { metadata: { labels: { a: 'b' } }, spec: { containers: [{ name: 'main', image: 'nginx:latest' }] } } } });
say('object', [deployed.kind, (await apps.listNamespacedDeployment({ namespace })).items.length]);

const out = new PassThrough(), err = new PassThrough(), input = new PassThrough();
let text = ''; out.on('data', (d) => { text += d; });
const status = await new Promise((resolve, reject) => { new k8s.Exec(kc).exec(namespace, 'web', 'main', ['sh', '-c', 'read x; echo got $x; exit 3'], out, err, input, false, resolve).catch(reject); input.write('hello\n'); });
say('exec', [text, status.status, status.reason, status.details.causes[0].message]);

const log = new PassThrough(); let lines = ''; log.on('data', (d) => { lines += d; });
await new k8s.Log(kc).log(namespace, 'web', 'main', log, { follow: false });
await new Promise((r) => log.on('end', r));
say('log', lines);

const forward = new k8s.PortForward(kc);
const server = net.createServer((socket) => forward.portForward(namespace, 'web', [80], socket, null, socket));
await new Promise((r) => server.listen(0, '127.0.0.1', r));
const page = await (await fetch(`http://127.0.0.1:${server.address().port}/`, { headers: { connection: 'close' } })).text();
say('forward', page.trim()); server.close();

await core.deleteNamespacedPod({ name: 'web', namespace });
await until(async () => seen.includes('delete web'));
await informer.stop();
say('informer', [seen[0], seen.some((s) => s === 'update web'), seen.at(-1), seen.filter((s) => s.startsWith('error'))]);
try { await core.readNamespacedPod({ name: 'web', namespace }); } catch (e) { say('gone', e.code); }
process.exit(0);
