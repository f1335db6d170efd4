// A page of HTML that Python made safe: its buttons copy a text, or ask for a sample.
const copy = async text => {
  try { await navigator.clipboard.writeText(text) } catch {
    const area = document.body.appendChild(document.createElement('textarea'))
    area.value = text; area.select(); document.execCommand('copy'); area.remove()
  }
}
function render({model, el}) {
  el.classList.add('toa-page')
  const draw = () => {
    const open = [...el.querySelectorAll('details[open]')].map(fold => fold.className)
    el.innerHTML = model.get('value')
    el.querySelectorAll('details').forEach(fold => { fold.open = open.includes(fold.className) })
    el.querySelectorAll('.toa-copy').forEach(button => {
      const raw = button.parentElement.querySelector('.toa-raw pre')
      button.hidden = !raw
      button.onclick = async () => { await copy(raw.textContent); button.textContent = 'Copied' }
    })
    el.querySelectorAll('[data-go]').forEach(button => button.onclick = () => {
      model.set('go', ''); model.set('go', button.dataset.go); model.save_changes()
    })
  }
  draw(); model.on('change:value', draw)
}
export default {render}
