// A page without a kernel: each part has a model of its own, and a choice in a list or a tree opens its pages.
const model_of = state => {
  const follow = {}
  return {
    get: name => state[name],
    set: (name, value) => { if (state[name] !== value) { state[name] = value; (follow[`change:${name}`] || []).forEach(act => act()) } },
    on: (event, act) => { (follow[event] = follow[event] || []).push(act) },
    save_changes: () => {},
  }
}
const show_part = (part, place) => {
  const box = place.appendChild(document.createElement('div'))
  box.className = 'toa-split'
  const left = box.appendChild(document.createElement('div')), right = box.appendChild(document.createElement('div')), model = model_of(part.state)
  if (part.kind === 'table') left.className = 'toa-list'
  widgets[part.kind].render({model, el: left})
  if (!part.pages) { box.className = ''; right.remove(); return }
  const page = model_of({value: '', go: ''})
  widgets.page.render({model: page, el: right})
  const now = () => part.kind === 'tree' ? model.get('selected') : (model.get('chosen') || [])[model.get('chosen').length - 1]
  const open = () => page.set('value', part.pages[now()] || '')
  model.on(part.kind === 'tree' ? 'change:selected' : 'change:chosen', open)
  page.on('change:go', () => { if (part.kind === 'tree' && page.get('go')) model.set('selected', +page.get('go')) })
  open()
}
