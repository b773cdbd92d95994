// The worker's page in headless Chromium: interop/connect/page starts what it needs.
//   node page.mjs REST NAME_SERVER SLUICE PLAYWRIGHT CHROMIUM SCREENSHOT
import { execFileSync } from 'node:child_process';
const [, , rest, names, sluice, playwright, chromium_path, screenshot] = process.argv;
const { chromium } = await import(playwright);
const browser = await chromium.launch({ executablePath: chromium_path, args: ['--no-sandbox'] });
const page = await browser.newPage({ viewport: { width: 1200, height: 800 } });
const problems = [];
page.on('pageerror', (error) => problems.push(String(error)));
page.on('dialog', (dialog) => { problems.push('a dialog: ' + dialog.message()); dialog.dismiss(); });
const send = (text, prop) => execFileSync(sluice, ['topic', 'send', 't', '--namesrv', names, '--prop', prop], { input: text + '\n' });
await page.goto(`http://${rest}/ui`);
const row = page.locator('tr[data-name=lake]');
await row.waitFor();
await row.getByText('RUNNING', { exact: true }).waitFor();
console.log('ok: a pipeline appears');
await row.locator('button[data-act=pause]').click();
await row.getByText('PAUSED', { exact: true }).waitFor();
await row.locator('button[data-act=resume]').click();
await row.getByText('RUNNING', { exact: true }).waitFor();
console.log('ok: it is paused and resumed');
await row.locator('td').first().click();
await page.locator('#where').fill("kind = 'b'");
await page.locator('#start').click();
// Until it listens, messages are sent that do not match, and then one that does.
await page.waitForTimeout(3000);
send('{"id": 1, "text": "plain"}', 'kind=a');
send('{"id": 2, "text": "<img src=x onerror=alert(1)><script>alert(2)</script>"}', 'kind=b');
await page.locator('#messages div').first().waitFor();
const shown = await page.locator('#messages').innerText();
if (!shown.includes('<script>alert(2)</script>') || shown.includes('plain')) throw new Error(shown);
if (await page.locator('#messages img, #messages script').count()) throw new Error('markup of a message');
console.log('ok: the tap shows matching rows, as text');
send('{"id": "no number"}', 'kind=a');
await row.getByText('FAILED', { exact: true }).waitFor({ timeout: 60000 });
console.log('ok: an error shows with its reason:', (await row.locator('.reason').innerText()).slice(0, 100));
await page.screenshot({ path: screenshot });
if (problems.length) throw new Error(problems.join('\n'));
await browser.close();
